package handoff

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

func TestMachineKeepsToTheBrokersLimit(t *testing.T) {
	l, s := attachedRig(1, 3)
	f := l.put(1, 10)
	l.launch(f, 0, 10)
	total := 0
	for total < 10 {
		sent := s.take()
		if len(sent) > 3 || len(sent) == 0 {
			t.Fatalf("%d messages on the wire with a limit of 3", len(sent))
		}
		total += len(sent)
		l.acks(acksFor(sent))
	}
	if list := l.settleAll(); len(list) != 1 || !list[0].Done || list[0].Concluded != 10 {
		t.Fatalf("settled %+v", list)
	}
	if !l.m.Idle() || l.m.freeSlots() != driver.LaneSlots {
		t.Fatalf("%d slots are free after all has ended", l.m.freeSlots())
	}
}

// TestWindowsAreFilled: a narrow window is filled message by message, a wide one by quarters.
func TestWindowsAreFilled(t *testing.T) {
	for _, tt := range []struct{ window, answers, sent int }{
		{1, 1, 1},
		{20, 1, 1},
		{wideWindow - 1, 1, 1},
		{wideWindow, 1, 0},
		{wideWindow, wideWindow/4 - 1, 0},
		{wideWindow, wideWindow / 4, wideWindow / 4},
	} {
		l, s := attachedRig(1, tt.window)
		l.launch(l.put(1, 500), 0, 500)
		first := s.take()
		if len(first) != tt.window {
			t.Fatalf("%d messages in a window of %d", len(first), tt.window)
		}
		l.acks(acksFor(first[:tt.answers]))
		if n := len(s.take()); n != tt.sent {
			t.Errorf("window %d: after %d answers %d messages were sent, want %d", tt.window, tt.answers, n, tt.sent)
		}
	}
	// The last messages don't wait for a whole quarter.
	l, s := attachedRig(1, wideWindow)
	l.launch(l.put(1, wideWindow+1), 0, wideWindow+1)
	l.acks(acksFor(s.take()[:1]))
	if n := len(s.take()); n != 1 {
		t.Errorf("the last message was not sent: %d", n)
	}
}

func TestMachineSendsAgainAfterALoss(t *testing.T) {
	l, first := attachedRig(1, 4)
	f := l.put(1, 6)
	l.launch(f, 0, 6)
	sent := first.take()
	l.acks(acksFor(sent[:1]))
	sent = append(sent, first.take()...)
	l.detach(errHangUp)
	l.acks(acksFor(sent[1:2])) // too late: that connection has ended

	second := newFakeConnection(10)
	l.attach(second)
	again := second.take()
	if len(again) != 5 {
		t.Fatalf("sent %d messages over the new session, want 5", len(again))
	}
	for i, m := range again {
		if m.JobID != 1000+int64(i)+1 || m.Dup != (i < 4) {
			t.Errorf("message %d is %+v", i, m)
		}
	}
	l.acks(acksFor(again))
	if list := l.settleAll(); len(list) != 1 || !list[0].Done {
		t.Fatalf("settled %+v", list)
	}
}

// TestReleaseThatNeverLeft: the broker was killed before PUBREL was sent, and may have
// restarted without the message. The message can be sent again to check that, as it was not
// released.
func TestReleaseThatNeverLeft(t *testing.T) {
	for _, left := range []bool{false, true} {
		l, s := attachedRig(2, 10)
		f := l.put(1, 1)
		l.launch(f, 0, 1)
		l.acks([]driver.Ack{{Slot: s.take()[0].Slot, Step: driver.Received}})
		l.settleAll()
		if len(s.freed) != 1 {
			t.Fatalf("released %v", s.freed)
		}
		if !left {
			s.unreleased = s.freed
		}
		l.detach(errHangUp)
		s = newFakeConnection(10)
		l.attach(s)
		sent := s.take()
		if left {
			if len(sent) != 0 || len(s.freed) != 1 {
				t.Fatalf("sent %+v, released %v: it may have been released", sent, s.freed)
			}
			continue
		}
		if len(sent) != 1 || !sent[0].Dup || len(s.freed) != 0 {
			t.Fatalf("sent %+v, released %v, want it again", sent, s.freed)
		}
		l.acks([]driver.Ack{{Slot: sent[0].Slot, Step: driver.Received}})
		if len(s.freed) != 1 {
			t.Fatalf("released %v, after it was received again", s.freed)
		}
		l.acks(releasesFor(s.freed))
		if list := l.settleAll(); len(list) != 1 || !list[0].Done {
			t.Fatalf("settled %+v", list)
		}
	}
}

func TestAtMostOnceNeverSendsAgain(t *testing.T) {
	l, s := attachedRig(0, 2)
	f := l.put(1, 4)
	l.launch(f, 0, 4)
	s.take()
	l.detach(errHangUp)
	s = newFakeConnection(2)
	l.attach(s)
	sent := s.take()
	if len(sent) != 2 || sent[0].JobID != 1002 {
		t.Fatalf("sent %+v, want only the two that never were", sent)
	}
	l.acks(acksFor(sent))
	list := l.settleAll()
	if len(list) != 1 || len(list[0].Failures) != 2 || !list[0].Failures[0].Final {
		t.Fatalf("settled %+v, want two with an unknown outcome", list)
	}
}

func TestMachineRecovers(t *testing.T) {
	l := newRig(1)
	l.recovered([]driver.Batch{
		{ID: 1, FirstSlot: driver.LaneSlots, QoS: 1, Jobs: []driver.Job{{ID: 1, Topic: "a"}, {ID: 2}, {ID: 3, Topic: "b"}}},
		{ID: 2, FirstSlot: 3, QoS: 0, Jobs: []driver.Job{{ID: 4, Topic: "c"}}},
	}, false)
	s := newFakeConnection(10)
	l.attach(s)
	sent := s.take()
	if len(sent) != 2 || sent[0].Slot != driver.LaneSlots || sent[1].Slot != 2 || !sent[0].Dup {
		t.Fatalf("sent %+v, want jobs 1 and 3 again in their slots", sent)
	}
	l.acks(acksFor(sent))
	list := l.settleAll()
	if len(list) != 2 {
		t.Fatalf("settled %+v", list)
	}
	for _, st := range list {
		if !st.Done || (st.BatchID == 2) != (len(st.Failures) == 1) {
			t.Errorf("settled %+v", st)
		}
	}
	if first, _, _ := l.m.Room(1); first != 4 {
		t.Errorf("the next claim begins at slot %d, want 4", first)
	}
}

func TestMachineRefusals(t *testing.T) {
	l := newRig(1)
	s := newFakeConnection(10)
	s.bad = "bad"
	l.attach(s)
	past := l.now.Database.Add(-time.Second)
	b := driver.Batch{ID: 1, FirstSlot: 1, QoS: 1, Jobs: []driver.Job{
		{ID: 1, Topic: "t"}, {ID: 2, Topic: "bad"}, {ID: 3, Topic: "t"}, {ID: 4, Topic: "t", ExpiresAt: past, Expires: true},
	}}
	f := l.admit(b)
	l.launch(f, 0, 4)
	sent := s.take()
	if len(sent) != 2 {
		t.Fatalf("sent %+v", sent)
	}
	l.acks([]driver.Ack{{Slot: sent[0].Slot, Code: 0x87, Reason: "no"}, {Slot: sent[1].Slot, Code: 0x10}})
	list := l.settleAll()
	if len(list) != 1 || !list[0].Done || len(list[0].Failures) != 3 {
		t.Fatalf("settled %+v", list)
	}
	for _, failure := range list[0].Failures {
		if final := failure.JobID != 1; failure.Final != final {
			t.Errorf("failure %+v", failure)
		}
	}
}

// TestExpiryIsAnInstant: 1970 is an instant like any other, and an expiry beyond the largest
// representable time has not passed.
func TestExpiryIsAnInstant(t *testing.T) {
	l, s := attachedRig(1, 10)
	b := driver.Batch{ID: 1, FirstSlot: 1, QoS: 1, Jobs: []driver.Job{
		{ID: 1, Topic: "t"},
		{ID: 2, Topic: "t", ExpiresAt: 0, Expires: true},
		{ID: 3, Topic: "t", ExpiresAt: math.MaxInt64, Expires: true},
		{ID: 4, Topic: "t", ExpiresAt: math.MinInt64, Expires: true},
	}}
	l.launch(l.admit(b), 0, 4)
	if sent := s.take(); len(sent) != 2 || sent[0].JobID != 1 || sent[1].JobID != 3 {
		t.Errorf("sent %+v, want the jobs 1 and 3", sent)
	}
}

func TestHandBackKeepsWhatWasSent(t *testing.T) {
	l, s := attachedRig(1, 2)
	f := l.put(1, 6)
	waiting := l.put(2, 3)
	l.launch(f, 0, 4) // two on the wire, two queued, two held
	l.carryOut(l.m.HandBack())
	if f.kept != 2 || waiting.kept != 0 {
		t.Fatalf("kept %d of the first and %d of the second batch, want 2 and 0", f.kept, waiting.kept)
	}
	list := l.settleAll()
	if len(list) != 2 || list[0].Done || list[0].Kept != 2 || !list[1].Done {
		t.Fatalf("settled %+v", list)
	}
	l.acks(acksFor(s.take()))
	if sent := s.take(); len(sent) != 0 {
		t.Fatalf("sent %+v after the hand-back", sent)
	}
	if list := l.settleAll(); len(list) != 1 || !list[0].Done || list[0].Kept != 2 {
		t.Fatalf("settled %+v", list)
	}
	if !l.m.Idle() || l.m.bytes != 0 {
		t.Fatal("not idle after everything was settled")
	}
}

// TestHandBackKeepsQuestions: the broker is still to be asked whether it has a message, and a stop
// waits for the answer.
func TestHandBackKeepsQuestions(t *testing.T) {
	l, s := attachedRig(2, 10)
	f := l.put(1, 1)
	l.launch(f, 0, 1)
	l.acks([]driver.Ack{{Slot: s.take()[0].Slot, Step: driver.Received}})
	l.detach(errHangUp)
	l.now.Leased = false
	s = newFakeConnection(10)
	l.attach(s)
	l.carryOut(l.m.HandBack())
	l.now.Leased = true
	l.carryOut(l.m.Resume(l.now))
	if sent := s.take(); len(sent) != 1 || !sent[0].Dup {
		t.Errorf("asked %+v", sent)
	}
}

// TestMachineHoldsWithoutLease: while others may have taken the lane, nothing is sent.
func TestMachineHoldsWithoutLease(t *testing.T) {
	l, s := attachedRig(1, 10)
	l.now.Leased = false
	f := l.put(1, 2)
	l.launch(f, 0, 2)
	if sent := s.take(); len(sent) != 0 {
		t.Fatalf("sent %d messages without a lease", len(sent))
	}
	l.now.Leased = true
	l.carryOut(l.m.Resume(l.now))
	if sent := s.take(); len(sent) != 2 {
		t.Fatalf("sent %d messages after the lease was renewed", len(sent))
	}
}

// TestReleasesWaitForTheLease: where the lane's next owner may be at another broker, nothing is released while
// others may have taken the lane; it is when the lease has been renewed, and once. At the only broker a release
// does not wait.
func TestReleasesWaitForTheLease(t *testing.T) {
	for _, others := range []bool{true, false} {
		l := newRig(2)
		s := newFakeConnection(10)
		s.limits.OtherBrokers = others
		l.attach(s)
		b := l.put(1, 3)
		l.launch(b, 0, 3)
		l.acks(receivedFor(s.take()))
		l.now.Leased = false
		l.settleAll()
		if want := map[bool]int{true: 0, false: 3}[others]; len(s.freed) != want {
			t.Errorf("other brokers: %t; released %v without a lease", others, s.freed)
		}
		l.now.Leased = true
		for range 2 {
			l.carryOut(l.m.Resume(l.now))
		}
		if len(s.freed) != 3 {
			t.Errorf("other brokers: %t; released %v when the lease was renewed", others, s.freed)
		}
		l.acks(releasesFor(s.freed))
		if l.settleAll(); !l.m.Idle() {
			t.Error("it is not idle")
		}
	}
}

// TestMachineAtRandom drives a lane with every kind of event in any order, and checks that each
// job ends exactly once, that slots are never shared, and that no batch remains.
func TestMachineAtRandom(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 2))
		l := newRig(1)
		var (
			session *fakeConnection
			wire    []driver.Message // sent over this session and not answered
			pads    []*padded
			next    int64
			settled = map[int64]int{}
			claimed int
		)
		record := func() {
			for _, st := range l.settleAll() {
				if st.Done {
					settled[st.BatchID] += st.Concluded
				}
			}
		}
		pull := func() {
			if session == nil {
				return
			}
			wire = append(wire, session.take()...)
			seen := map[driver.Slot]bool{}
			for _, m := range wire {
				if seen[m.Slot] {
					t.Fatalf("seed %d: slot %d carries two messages", seed, m.Slot)
				}
				seen[m.Slot] = true
			}
			if len(wire) > session.limits.InFlight {
				t.Fatalf("seed %d: %d in flight, limit %d", seed, len(wire), session.limits.InFlight)
			}
		}
		answer := func(n int) {
			l.acks(acksFor(wire[:n]))
			wire = slices.Clone(wire[n:])
			pull()
		}
		launch := func(f *padded, n int) {
			from := f.next
			f.next += n
			l.launch(f.Batch, from, f.next)
		}
		for range 200 {
			switch rng.IntN(6) {
			case 0:
				if session == nil {
					session = newFakeConnection(1 + rng.IntN(50))
					l.attach(session)
				} else if rng.IntN(4) == 0 {
					session, wire = nil, nil
					l.detach(errHangUp)
				}
			case 1:
				n := 1 + rng.IntN(600)
				if _, _, ok := l.m.Room(n); ok {
					next++
					claimed += n
					pads = append(pads, &padded{Batch: l.put(next, n)})
				}
			case 2:
				if len(pads) > 0 {
					f := pads[rng.IntN(len(pads))]
					launch(f, rng.IntN(f.jobs-f.next+1))
				}
			case 3, 4:
				if len(wire) > 0 {
					answer(1 + rng.IntN(len(wire)))
				}
			case 5:
				record()
			}
			pull()
		}
		if session == nil {
			session = newFakeConnection(100)
			l.attach(session)
		}
		for _, f := range pads {
			launch(f, f.jobs-f.next)
		}
		for pull(); len(wire) > 0 || len(l.news) > 0; pull() {
			answer(len(wire))
			record() // messages beyond the reach wait for that
		}
		total := 0
		for _, n := range settled {
			total += n
		}
		if total != claimed || len(settled) != len(pads) || !l.m.Idle() || l.m.inFlight != 0 || l.m.bytes != 0 {
			t.Fatalf("seed %d: claimed %d jobs in %d batches, settled %d in %d, idle %t", seed, claimed, len(pads), total, len(settled), l.m.Idle())
		}
	}
}

// TestMachineBoundsMemory: large payloads make a lane full before its slots are used up.
func TestMachineBoundsMemory(t *testing.T) {
	l, s := attachedRig(1, 10)
	b := driver.Batch{ID: 1, FirstSlot: 1, QoS: 1, Jobs: []driver.Job{{ID: 1, Topic: "t", Payload: make([]byte, MaxBytes)}}}
	f := l.admit(b)
	if _, _, ok := l.m.Room(1); ok {
		t.Fatal("there is room beside a payload of the whole limit")
	}
	l.launch(f, 0, 1)
	l.acks(acksFor(s.take()))
	l.settleAll()
	if _, _, ok := l.m.Room(1); !ok {
		t.Fatal("there is no room after it has ended")
	}
}
