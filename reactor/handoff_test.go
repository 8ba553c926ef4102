package reactor

import (
	"fmt"
	"strings"
	"testing"
)

// TestHandOff: whatever the order of events, and wherever everybody dies, each claimed job
// is delivered once.
func TestHandOff(t *testing.T) {
	for name, rules := range map[string]modelRules{
		"a slot used again":                  {slots: 1, jobs: 3, instances: 2, drops: 1},
		"three instances":                    {slots: 1, jobs: 2, instances: 3, drops: 1},
		"two slots":                          {slots: 2, jobs: 2, instances: 2, drops: 1},
		"a broker that is killed":            {slots: 1, jobs: 2, instances: 2, drops: 1, rollbacks: 1},
		"killed twice":                       {slots: 2, jobs: 2, instances: 1, drops: 1, rollbacks: 2},
		"a broker that passes on at PUBLISH": {slots: 1, jobs: 2, instances: 2, drops: 1, deliverAtPublish: true},
	} {
		t.Run(name, func(t *testing.T) {
			v := rules.explore()
			if v.broken != "" {
				t.Fatalf("%s:\n  %s", v.broken, strings.Join(v.way, "\n  "))
			}
			for i := 1; i <= 8; i++ {
				if point := fmt.Sprint("C", i); !v.points[point] {
					t.Errorf("nobody has died at %s", point)
				}
			}
			t.Logf("%d states", v.states)
		})
	}
}

// TestHandOffObjects: the model would not be worth much if it let a broken protocol pass.
func TestHandOffObjects(t *testing.T) {
	for name, test := range map[string]struct {
		mutate func(*modelRules)
		want   string
	}{
		"PUBREL before the commit": {func(m *modelRules) { m.releaseBeforeCommit = true }, "delivered 2 times"},
		"slot used again early":    {func(m *modelRules) { m.reuseBeforePubcomp = true }, "delivered 2 times"},
		"journal cleared early":    {func(m *modelRules) { m.deleteBeforePubcomp = true }, "delivered 0 times"},
		"lease not looked at":      {func(m *modelRules) { m.trustOldLease = true }, "delivered 2 times"},
		"not sent again":           {func(m *modelRules) { m.notSentAgain, m.rollbacks = true, 1 }, "delivered 0 times"},
	} {
		t.Run(name, func(t *testing.T) {
			rules := modelRules{slots: 1, jobs: 2, instances: 2, drops: 1}
			test.mutate(&rules)
			v := rules.explore()
			if !strings.Contains(v.broken, test.want) {
				t.Fatalf("after %d states the model says %q, want %q", v.states, v.broken, test.want)
			}
			t.Logf("%s:\n  %s", v.broken, strings.Join(v.way, "\n  "))
		})
	}
}
