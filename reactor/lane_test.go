package reactor

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/handoff"
)

// fakeSession records what is sent. Real connections are tested in mqttsink and end to end.
type fakeSession struct {
	limits driver.Limits
	sent   []driver.Message
	freed  []driver.Slot // released
	ended  bool          // the session takes no more messages
	// unreleased are the slots for which PUBREL was never sent.
	unreleased []driver.Slot
	bad        string // topic that Check objects to
	done       chan struct{}
}

func newFakeSession(inFlight int) *fakeSession {
	return &fakeSession{limits: driver.Limits{InFlight: inFlight, QoS: 2}, done: make(chan struct{})}
}

func (s *fakeSession) Limits() driver.Limits { return s.limits }
func (s *fakeSession) Check(m driver.Message) error {
	if m.Topic == s.bad {
		return errors.New("bad topic")
	}
	return nil
}

func (s *fakeSession) Publish(msgs []driver.Message) error {
	if s.ended {
		return errHangUp
	}
	s.sent = append(s.sent, msgs...)
	return nil
}

func (s *fakeSession) ShouldLeave(context.Context) bool { return false }

func (s *fakeSession) PassesOn(context.Context) (driver.Passing, error) {
	return driver.PassesOnAtPublish, nil
}
func (s *fakeSession) Unreleased() []driver.Slot { return s.unreleased }
func (s *fakeSession) Release(slots []driver.Slot) error {
	if s.ended {
		return errHangUp
	}
	s.freed = append(s.freed, slots...)
	return nil
}
func (s *fakeSession) Done() <-chan struct{} { return s.done }
func (s *fakeSession) Err() error            { return nil }
func (s *fakeSession) Mark(context.Context, string) error {
	return nil
}
func (s *fakeSession) Close(context.Context) error   { return nil }
func (s *fakeSession) Abort()                        {}
func (s *fakeSession) Discard(context.Context) error { return nil }

// take returns what was sent since the last call.
func (s *fakeSession) take() []driver.Message {
	sent := s.sent
	s.sent = nil
	return sent
}

var errHangUp = errors.New("hung up")

// testLane is a lane that settles into a list.
type testLane struct {
	*lane
	news   []*handoff.Batch
	leased bool
}

func newTestLane(delivery Delivery) *testLane {
	t := &testLane{leased: true}
	t.lane = &lane{
		lead:     newLead(),
		delivery: delivery, stats: &counters{}, progress: &progress{}, leased: func() bool { return t.leased }, clock: newClock(discard()),
		settle:   func(_ *lane, b *handoff.Batch, _ time.Duration) { t.news = append(t.news, b) },
		hurry:    func() {},
		capacity: wait.NewSignal(), recorded: wait.NewSignal(), machine: newMachine(Config{Delivery: delivery}), log: slog.New(slog.DiscardHandler),
	}
	return t
}

// settleAll settles all news, as the settler does.
func (t *testLane) settleAll() []driver.Settlement {
	var list []driver.Settlement
	news := t.news
	t.news = nil
	for _, b := range news {
		s := t.settlement(b)
		t.settled(s, b, true)
		list = append(list, s)
	}
	return list
}

func (t *testLane) put(id int64, n int) *handoff.Batch {
	_, first, reach, _ := t.room(n)
	b := driver.Batch{ID: id, FirstSlot: first, Reach: reach, QoS: t.delivery.QoS()}
	for i := range n {
		b.Jobs = append(b.Jobs, driver.Job{ID: id*1000 + int64(i), Topic: "t", Payload: []byte("payload")})
	}
	return t.admit(b)
}

// TestLaneHoldsWithoutLease: while others may have taken the lane, nothing is sent.
func TestLaneHoldsWithoutLease(t *testing.T) {
	l := newTestLane(AtLeastOnce)
	s := newFakeSession(10)
	l.attach(s)
	l.leased = false
	b := l.put(1, 2)
	l.launch(b, 0, 2)
	if sent := s.take(); len(sent) != 0 {
		t.Fatalf("sent %d messages without a lease", len(sent))
	}
	if _, _, _, ok := l.room(1); ok {
		t.Fatal("there is room for claims without a lease")
	}
	l.leased = true
	l.resume()
	if sent := s.take(); len(sent) != 2 {
		t.Fatalf("sent %d messages after the lease was renewed", len(sent))
	}
	l.doubt()
	if _, _, _, ok := l.room(1); ok {
		t.Fatal("there is room for claims while the journal is in doubt")
	}
	l.trust()
	if _, _, _, ok := l.room(1); !ok {
		t.Fatal("there is no room")
	}
}

// TestReleasesThatNeverLeft: releases that an ended session refuses, or had only queued, don't
// count as sent. Their messages are sent again.
func TestReleasesThatNeverLeft(t *testing.T) {
	l := newTestLane(ExactlyOnce)
	s := newFakeSession(10)
	l.attach(s)
	b := l.put(1, 3)
	l.launch(b, 0, 3)
	var received []driver.Ack
	for _, m := range s.take() {
		received = append(received, driver.Ack{Slot: m.Slot, Step: driver.Received})
	}
	l.acks(received[:2])
	l.settleAll() // releases two messages
	l.acks(received[2:])
	s.ended = true
	l.settleAll() // and a third, which the session refuses
	s.unreleased = s.freed[1:]
	if !l.detach(errHangUp) {
		t.Error("a session with answers counts as one without")
	}
	s = newFakeSession(10)
	l.attach(s)
	sent := s.take()
	if len(s.freed) != 1 || s.freed[0] != received[0].Slot || len(sent) != 2 || sent[0].Slot != received[1].Slot || sent[1].Slot != received[2].Slot {
		t.Errorf("sent %+v again, released %v again", sent, s.freed)
	}
	if st := l.stats; st.published.Load() != 3 || st.inFlight.Load() != 3 {
		t.Errorf("%d published, %d in flight", st.published.Load(), st.inFlight.Load())
	}
}

// TestLostLaneEndsItsRunner: messages that the journal could not record belong to the new
// owner.
func TestLostLaneEndsItsRunner(t *testing.T) {
	l := newTestLane(ExactlyOnce)
	ctx, cancel := context.WithCancel(t.Context())
	l.leaveBy(cancel)
	s := newFakeSession(3)
	l.attach(s)
	b := l.put(1, 1)
	l.launch(b, 0, 1)
	l.acks([]driver.Ack{{Slot: s.take()[0].Slot, Step: driver.Received}})
	l.settled(l.settlement(b), b, false)
	if len(s.freed) > 0 {
		t.Error("released a message whose receipt was not committed")
	}
	if _, _, _, ok := l.room(1); ok || ctx.Err() == nil {
		t.Error("the lane's runner goes on")
	}
}

// TestLaneRests: the lane goes on by itself after the pause for a broker that is over quota.
func TestLaneRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newTestLane(AtLeastOnce)
		s := newFakeSession(10)
		l.attach(s)
		l.launch(l.put(1, 1), 0, 1)
		l.acks([]driver.Ack{{Slot: s.take()[0].Slot, Code: driver.CodeQuotaExceeded, Reason: "slow down"}})
		sentNow := func() []driver.Message { // the lane's own goroutine sends
			l.mu.Lock()
			defer l.mu.Unlock()
			return s.take()
		}
		if sent := sentNow(); len(sent) > 0 || l.stats.throttled.Load() != 1 {
			t.Fatalf("sent %+v at once", sent)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if sent := sentNow(); len(sent) != 1 {
			t.Errorf("sent %+v after the rest", sent)
		}
	})
}
