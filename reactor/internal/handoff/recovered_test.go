package handoff

import (
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestRecoveryWaitsForItsTime: a failover can lead to a server whose clock is behind. Then
// messages that the dead owner had sent or was about to send are due in the future. None is
// sent or released before its time, and all are after it.
func TestRecoveryWaitsForItsTime(t *testing.T) {
	fireAt := driver.DBTimeOf(time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC))
	jobs := func(first int64, n int) []driver.Job {
		var list []driver.Job
		for i := range n {
			list = append(list, driver.Job{ID: first + int64(i), Topic: "t", FireAt: fireAt.Add(time.Duration(i) * time.Millisecond)})
		}
		return list
	}
	for name, tt := range map[string]struct {
		qos            byte
		settled, reach int
		lost           bool
		dups           int
	}{
		"received and marked":            {2, 3, 4, false, 4},
		"sent, not marked":               {2, 0, 4, false, 4},
		"its session lost":               {2, 3, 4, true, 0},
		"in doubt at QoS 1":              {1, 0, 10, false, 10},
		"without a bound, as by version": {1, 0, 0, false, 10},
	} {
		t.Run(name, func(t *testing.T) {
			l := newRig(tt.qos)
			l.now.Database = fireAt.Add(-time.Hour)
			early := l.recovered([]driver.Batch{{ID: 1, FirstSlot: 4090, Reach: tt.reach, QoS: tt.qos, Concluded: tt.settled, Jobs: jobs(1, 10)}}, tt.lost)
			if len(early) != 10 {
				t.Fatalf("%d of 10 jobs wait for their time", len(early))
			}
			s := newFakeConnection(100)
			l.attach(s)
			l.settleAll()
			l.detach(errHangUp) // a new connection must not change that
			s = newFakeConnection(100)
			l.attach(s)
			l.settleAll()
			if sent := s.take(); len(sent) > 0 || len(s.freed) > 0 {
				t.Fatalf("an hour early: sent %v, released %v", sent, s.freed)
			}
			// Launch job by job, as the launch pad does.
			for _, w := range early {
				l.launch(w.Batch, w.Place, w.Place+1)
			}
			// Messages beyond the reach follow when the first ones have been answered.
			sent, dups, released := 0, 0, 0
			for progress := true; progress; {
				var acks []driver.Ack
				for _, m := range s.take() {
					sent++
					if m.Dup {
						dups++
					}
					step := driver.Completed
					if tt.qos == 2 {
						step = driver.Received
					}
					acks = append(acks, driver.Ack{Slot: m.Slot, Step: step})
				}
				acks = append(acks, releasesFor(s.freed)...)
				released += len(s.freed)
				s.freed = nil
				progress = len(acks) > 0
				l.acks(acks)
				progress = len(l.settleAll()) > 0 || progress
			}
			if want := 10 - tt.settled; !tt.lost && sent != want || tt.lost && sent != 10 || dups != tt.dups {
				t.Errorf("sent %d, %d as duplicates, want %d, %d", sent, dups, want, tt.dups)
			}
			if tt.qos == 2 && released != 10 {
				t.Errorf("released %d of 10", released)
			}
			if !l.m.Idle() {
				t.Error("not idle in the end")
			}
		})
	}
}

// TestForgottenAtRelease: a broker that says, when it is told to release a message for the
// first time, that it does not know it, has lost it (0x92). After a second PUBREL that answer
// is normal.
func TestForgottenAtRelease(t *testing.T) {
	for name, fail := range map[string]bool{"sent again": false, "fails": true} {
		t.Run(name, func(t *testing.T) {
			l := newRig(2)
			l.m.cfg.FailLost = fail
			s := newFakeConnection(10)
			l.attach(s)
			f := l.put(1, 3)
			l.launch(f, 0, 3)
			var acks []driver.Ack
			for _, m := range s.take() {
				acks = append(acks, driver.Ack{Slot: m.Slot, Step: driver.Received})
			}
			l.acks(acks)
			l.settleAll()
			if len(s.freed) != 3 {
				t.Fatalf("released %v", s.freed)
			}
			first, second, third := s.freed[0], s.freed[1], s.freed[2]
			l.acks([]driver.Ack{{Slot: first, Step: driver.Released}, {Slot: second, Step: driver.Released, Code: driver.CodeUnknownSlot}})
			l.detach(errHangUp)
			s = newFakeConnection(10)
			l.attach(s)
			if sent := s.take(); len(sent) > 0 || len(s.freed) != 1 || s.freed[0] != third {
				t.Fatalf("sent %v, released %v, want the third to be released again", sent, s.freed)
			}
			l.acks([]driver.Ack{{Slot: third, Step: driver.Released, Code: driver.CodeUnknownSlot}})
			list := l.settleAll()
			if len(list) != 1 || !list[0].Done || len(list[0].Failures) != 1 {
				t.Fatalf("settled %+v, want one failure", list)
			}
			if failure := list[0].Failures[0]; failure.JobID != 1001 || failure.Code != driver.CodeUnknownSlot || failure.Final != fail {
				t.Errorf("failure %+v: %s", failure, name)
			}
			if n := l.outcomesUnknown; n != 1 {
				t.Errorf("%d outcomes are counted as unknown, want 1", n)
			}
		})
	}
}

// TestRecoveredAndLeftOut: what its schedule leaves out by now is sent again if the last owner may have sent
// it: the broker may have it. The others end as missed.
func TestRecoveredAndLeftOut(t *testing.T) {
	r := newRig(1)
	var list []driver.Job
	for id := range int64(5) {
		list = append(list, driver.Job{ID: id + 1, Topic: "t", FireAt: r.now.Database.Add(-time.Minute), LeftOut: true})
	}
	r.recovered([]driver.Batch{{ID: 1, FirstSlot: 1, Reach: 3, QoS: 1, Jobs: list}}, false)
	c := newFakeConnection(100)
	r.attach(c)
	sent := c.take()
	if len(sent) != 3 || !sent[0].Dup {
		t.Fatalf("%d of 3 messages in doubt are sent again", len(sent))
	}
	r.acks(acksFor(sent))
	r.advance(time.Second)
	missed := 0
	for _, s := range r.settleAll() {
		for _, f := range s.Failures {
			if f.State == driver.Missed {
				missed++
			}
		}
	}
	if more := c.take(); missed != 2 || len(more) > 0 {
		t.Errorf("%d messages are missed and %d sent that were not in doubt, want 2 and 0", missed, len(more))
	}
}
