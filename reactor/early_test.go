package reactor

import (
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestEarlyIsCounted: whatever has decided that messages are due, those that are handed over before their
// time are counted: when they are published, and when they are released after they were staged.
func TestEarlyIsCounted(t *testing.T) {
	for name, stage := range map[string]bool{"published": false, "released": true} {
		l := newTestLane(ExactlyOnce)
		s := &instantSession{fakeSession: *newFakeSession(100)}
		l.attach(s)
		if stage {
			l.stage(s, true)
		}
		soon := l.clock.Now().Add(soonEnough)
		batch := driver.Batch{QoS: 2, Reach: 100, FirstSlot: 1, Jobs: []driver.Job{
			{ID: 1, Topic: "due", FireAt: 0}, {ID: 2, Topic: "early", FireAt: soon}, {ID: 3, Topic: "early", FireAt: soon},
		}}
		b := l.admit(batch)
		exchange := func() {
			for len(s.acks) > 0 || len(l.news) > 0 {
				acks := s.acks
				s.acks = nil
				l.acks(acks)
				l.settleAll()
			}
		}
		exchange()
		if n := l.stats.early.Load(); n != 0 {
			t.Errorf("%s: %d early messages before any was due", name, n)
		}
		l.launch(b, 0, 1)
		exchange()
		if n := l.stats.early.Load(); n != 0 {
			t.Errorf("%s: %d early messages after one that was due", name, n)
		}
		l.launch(b, 1, 3)
		if n := l.stats.early.Load(); n != 2 {
			t.Errorf("%s: %d early messages, want 2", name, n)
		}
	}
}

// soonEnough is near enough for a message to be staged, and further away than the test takes.
const soonEnough = 900 * time.Millisecond
