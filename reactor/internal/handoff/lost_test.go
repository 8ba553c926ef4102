package handoff

import (
	"testing"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestSessionLost: depending on the policy, messages that were on their way are sent again or
// fail; messages that the broker never had are not affected.
func TestSessionLost(t *testing.T) {
	for name, want := range map[string]int{"sent again": 5, "fails": 2} {
		t.Run(name, func(t *testing.T) {
			l := newRig(2)
			l.m.cfg.FailLost = want == 2
			s := newFakeConnection(3)
			l.attach(s)
			f := l.put(1, 5)
			l.launch(f, 0, 5)
			sent := s.take() // three, two are queued
			l.acks([]driver.Ack{{Slot: sent[0].Slot, Step: driver.Received}, {Slot: sent[1].Slot, Step: driver.Received}})
			list := l.settleAll()
			if len(list) != 1 || list[0].Concluded != 2 || len(s.freed) != 2 {
				t.Fatalf("settled %+v, released %v", list, s.freed)
			}
			l.detach(errHangUp)
			l.carryOut(l.m.SessionLost(7))
			s = newFakeConnection(10)
			l.attach(s)
			sent = s.take()
			if len(sent) != want || sent[0].Dup || len(s.freed) != 0 {
				t.Fatalf("sent %+v, released %v; want %d new messages", sent, s.freed, want)
			}
			var acks []driver.Ack
			for _, m := range sent {
				acks = append(acks, driver.Ack{Slot: m.Slot, Step: driver.Received})
			}
			l.acks(acks)
			list = l.settleAll()
			if len(list) != 1 || list[0].Round != 7 || list[0].Concluded != 5 || len(list[0].Failures) != 5-want {
				t.Fatalf("settled %+v", list)
			}
			l.acks(releasesFor(s.freed))
			if list = l.settleAll(); len(list) != 1 || !list[0].Done || !l.m.Idle() {
				t.Fatalf("settled %+v, idle %t", list, l.m.Idle())
			}
			if n := l.outcomesUnknown; n != 3 {
				t.Errorf("%d outcomes are counted as unknown, want 3", n)
			}
		})
	}
}

// TestLostLaneReleasesNothing: messages that the journal could not record belong to the new
// owner.
func TestLostLaneReleasesNothing(t *testing.T) {
	l, s := attachedRig(2, 3)
	f := l.put(1, 1)
	l.launch(f, 0, 1)
	l.acks([]driver.Ack{{Slot: s.take()[0].Slot, Step: driver.Received}})
	l.settled(l.m.Settlement(f), f, false)
	if len(s.freed) > 0 {
		t.Error("released a message whose receipt was not committed")
	}
	if _, _, ok := l.m.Room(1); ok || !l.notOurs {
		t.Error("the lane has room, or NotOurs is not set")
	}
}

// TestSessionLostBehindDeletedRow: the row of a job was deleted before its message was sent, and one
// behind it fails. What has no row has no failure.
func TestSessionLostBehindDeletedRow(t *testing.T) {
	l := newRig(2)
	l.m.cfg.FailLost = true
	l.attach(newFakeConnection(3))
	f := l.put(1, 2)
	l.launch(f, 1, 2)
	l.detach(errHangUp)
	l.m.at(f.slot(0)).job.Topic = ""
	l.launch(f, 0, 1)
	l.carryOut(l.m.SessionLost(7))
	l.attach(newFakeConnection(3))
	list := l.settleAll()
	if len(list) == 0 || len(list[0].Failures) != 1 || list[0].Failures[0].JobID != l.m.at(f.slot(1)).job.ID || !list[len(list)-1].Done {
		t.Fatalf("settled %+v, want one failure, of the second", list)
	}
}
