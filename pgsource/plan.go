package pgsource

import (
	"cmp"
	"slices"

	"github.com/job-publisher/reactor/reactor/driver"
)

// view is what the membership tables say at one moment.
type view struct {
	instances []instance
	// owners of the shards; 0 is nobody.
	owners [driver.Shards]int64
	lanes  []laneRow
}

type instance struct {
	id      int64
	lapsed  bool // to be removed, by the judgement of whoever looks
	dynamic bool
}

type laneRow struct {
	lane      int32
	owner     int64
	epoch     int64
	mark      string
	journaled bool // only told of lanes without a living owner
}

// changes are what it takes to give everything a living owner.
type changes struct {
	dead   []int64         // instances to remove
	shards map[uint8]int64 // new owners
	adopt  []int32         // lanes for the planner itself
	create int             // new lanes for the planner itself
}

func (c changes) empty() bool {
	return len(c.dead) == 0 && len(c.shards) == 0 && len(c.adopt) == 0 && c.create == 0
}

// plan compares the view with what it should be: no dead instance, every shard
// with a living dynamic owner, each of those the same share, give or take one, with
// as few moves as possible; no journal without an owner; and as many lanes for the
// planner as it wants.
//
// It is a pure function of the view, so that it doesn't matter which instance runs
// it, and running it on its own result changes nothing.
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
	// Lanes with something to recover come first, and are taken beyond our own
	// number: their jobs are overdue.
	orphans := slices.DeleteFunc(slices.Clone(v.lanes), func(l laneRow) bool { return known[l.owner] })
	slices.SortStableFunc(orphans, func(a, b laneRow) int { return cmp.Compare(rank(a), rank(b)) })
	for _, l := range orphans {
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

// distribute returns the shards that need another owner.
func distribute(owners [driver.Shards]int64, living map[int64]int) map[uint8]int64 {
	if len(living) == 0 {
		return nil
	}
	for _, owner := range owners {
		if _, ok := living[owner]; ok {
			living[owner]++
		}
	}
	// Who owns most keeps one more where the shards don't divide evenly: fewer moves.
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
			room[owner]++ // gives one away
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
