package pgsource

import (
	"math/rand/v2"
	"testing"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestPlanDistributesFairly joins and removes instances at random, and checks after each change
// what plan promises.
func TestPlanDistributesFairly(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var v view
		nextID := int64(1)
		for range 30 {
			if len(v.instances) == 0 || rng.IntN(3) > 0 {
				v.instances = append(v.instances, instance{id: nextID, dynamic: rng.IntN(5) > 0})
				nextID++
			} else {
				v.instances[rng.IntN(len(v.instances))].lapsed = true
			}
			me := v.instances[rng.IntN(len(v.instances))].id
			before := v.owners
			c := plan(v, me, 0)
			v = applyTo(v, c)
			checkShares(t, seed, v, before)
			if again := plan(v, me, 0); !again.empty() {
				t.Fatalf("seed %d: the plan is not final: %+v", seed, again)
			}
		}
	}
}

func applyTo(v view, c changes) view {
	gone := map[int64]bool{}
	for _, id := range c.dead {
		gone[id] = true
	}
	var rest []instance
	for _, in := range v.instances {
		if !gone[in.id] {
			in.lapsed = false // the planner itself is never removed
			rest = append(rest, in)
		}
	}
	v.instances = rest
	for shard, owner := range c.shards {
		v.owners[shard] = owner
	}
	return v
}

func checkShares(t *testing.T, seed uint64, v view, before [driver.Shards]int64) {
	t.Helper()
	share := map[int64]int{}
	for _, in := range v.instances {
		if in.dynamic {
			share[in.id] = 0
		}
	}
	if len(share) == 0 {
		return
	}
	kept := map[int64]int{}
	for shard, owner := range v.owners {
		if _, ok := share[owner]; !ok {
			t.Fatalf("seed %d: shard %d belongs to %d, which is not there", seed, shard, owner)
		}
		share[owner]++
		if before[shard] == owner {
			kept[owner]++
		}
	}
	low := driver.Shards / len(share)
	for id, n := range share {
		if n < low || n > low+1 {
			t.Fatalf("seed %d: instance %d owns %d shards of a fair %d", seed, id, n, low)
		}
		// Whoever received shards gave none away.
		lost := 0
		for shard, owner := range before {
			if owner == id && v.owners[shard] != id {
				lost++
			}
		}
		if n > kept[id] && lost > 0 {
			t.Fatalf("seed %d: instance %d gave %d shards away and received %d", seed, id, lost, n-kept[id])
		}
	}
}

func TestPlanReplacesTheLapsed(t *testing.T) {
	v := view{instances: []instance{{id: 1, dynamic: true}, {id: 2, dynamic: true}}}
	for shard := range v.owners {
		v.owners[shard] = int64(shard%2 + 1)
	}
	v.lanes = []laneRow{{lane: 1, owner: 1}, {lane: 2, owner: 2, journaled: true}}
	if c := plan(v, 1, 1); !c.empty() {
		t.Fatalf("all is well, and the plan is %+v", c)
	}
	v.instances[1].lapsed = true
	c := plan(v, 1, 1)
	if len(c.dead) != 1 || c.dead[0] != 2 || len(c.shards) != 32 {
		t.Fatalf("the dead instance was not replaced: %+v", c)
	}
	if len(c.adopt) != 1 || c.adopt[0] != 2 {
		t.Fatalf("the dead instance's journal was not adopted: %+v", c)
	}
}

func TestPlanLanes(t *testing.T) {
	in := []instance{{id: 1, dynamic: false}}
	for name, test := range map[string]struct {
		lanes  []laneRow
		want   int
		adopt  int
		create int
	}{
		"none yet":                     {nil, 2, 0, 2},
		"enough":                       {[]laneRow{{lane: 1, owner: 1}, {lane: 2, owner: 1}}, 2, 0, 0},
		"reuses what is free":          {[]laneRow{{lane: 1}, {lane: 2}, {lane: 3}}, 2, 2, 0},
		"recovers beyond its number":   {[]laneRow{{lane: 1, owner: 1}, {lane: 2, journaled: true}, {lane: 3}}, 1, 1, 0},
		"recovers first, then creates": {[]laneRow{{lane: 2, journaled: true}}, 3, 1, 2},
	} {
		c := plan(view{instances: in, lanes: test.lanes}, 1, test.want)
		if len(c.adopt) != test.adopt || c.create != test.create {
			t.Errorf("%s: %+v", name, c)
		}
	}
}
