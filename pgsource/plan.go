package pgsource

import (
	"cmp"
	"slices"

	"github.com/job-publisher/reactor/reactor/driver"
)

// view is the content of the membership tables at one moment.
type view struct {
	instances []instance
	// owners of the shards; 0: no owner.
	owners [driver.Shards]int64
	lanes  []laneRow
}

type instance struct {
	id      int64
	lapsed  bool // the instance that reads the view may depose it
	dynamic bool
}

type laneRow struct {
	lane      int32
	owner     int64
	epoch     int64
	mark      string
	journaled bool // its journal is not empty; set only for lanes without a living owner
}

// changes are what gives everything a living owner.
type changes struct {
	dead   []int64         // instances to remove
	shards map[uint8]int64 // new owners
	adopt  []int32         // lanes for the planner itself
	create int             // new lanes for the planner itself
}

func (c changes) empty() bool {
	return len(c.dead) == 0 && len(c.shards) == 0 && len(c.adopt) == 0 && c.create == 0
}

// plan compares the view with the desired state: no dead instance; every shard owned by a living
// dynamic instance, with shares that differ by one at most and as few moves as possible; no journal
// without an owner; and as many lanes for the planner as it wants.
//
// It is a pure function of the view. So any instance may run it, and running it on its own result
// changes nothing.
func plan(v view, me int64, wantLanes int) changes {
	var c changes
	living := map[int64]int{} // dynamic instances and how many shards they own
	known := map[int64]bool{}
	for _, in := range v.instances {
		if in.lapsed && in.id != me {
			c.dead = append(c.dead, in.id)
			continue
		}
		known[in.id] = true
		if in.dynamic {
			living[in.id] = 0
		}
	}
	c.shards = distribute(v.owners, living)

	mine := 0
	for _, l := range v.lanes {
		if l.owner == me {
			mine++
		}
	}
	// Lanes with a journal come first, and are adopted beyond the wanted number: their jobs are
	// overdue.
	ownerless := slices.DeleteFunc(slices.Clone(v.lanes), func(l laneRow) bool { return known[l.owner] })
	slices.SortStableFunc(ownerless, func(a, b laneRow) int { return cmp.Compare(rank(a), rank(b)) })
	for _, l := range ownerless {
		if l.journaled || mine < wantLanes {
			c.adopt = append(c.adopt, l.lane)
			mine++
		}
	}
	c.create = max(0, wantLanes-mine)
	return c
}

func rank(l laneRow) int {
	if l.journaled {
		return 0
	}
	return 1
}

// distribute returns the new owners of the shards that need another one.
func distribute(owners [driver.Shards]int64, living map[int64]int) map[uint8]int64 {
	if len(living) == 0 {
		return nil
	}
	for _, owner := range owners {
		if _, ok := living[owner]; ok {
			living[owner]++
		}
	}
	// If the shards do not divide evenly, the instances that own most get one more: that needs
	// fewer moves.
	ids := make([]int64, 0, len(living))
	for id := range living {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b int64) int {
		return cmp.Or(cmp.Compare(living[b], living[a]), cmp.Compare(a, b))
	})
	room := map[int64]int{} // how many more an instance should own; negative: too many
	for i, id := range ids {
		share := driver.Shards / len(ids)
		if i < driver.Shards%len(ids) {
			share++
		}
		room[id] = share - living[id]
	}
	moves := map[uint8]int64{}
	next := 0
	for shard, owner := range owners {
		if _, ok := living[owner]; ok {
			if room[owner] >= 0 {
				continue
			}
			room[owner]++ // it gives one away
		}
		for next < len(ids) && room[ids[next]] <= 0 {
			next++
		}
		if next == len(ids) {
			break
		}
		moves[uint8(shard)] = ids[next]
		room[ids[next]]--
	}
	return moves
}
