package reactor

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// This file holds the fakes for tests of the stages in synthetic time: alarms that are timers
// of the runtime, and a database whose answers the test sets.

// timerWaker is a waker.
type timerWaker struct {
	c     chan struct{}
	timer *time.Timer
}

func newTimerWaker() (waker, error) {
	w := &timerWaker{c: make(chan struct{}, 1)}
	w.timer = time.AfterFunc(time.Hour, w.ring)
	w.timer.Stop()
	return w, nil
}

func (w *timerWaker) ring() {
	select {
	case w.c <- struct{}{}:
	default:
	}
}

func (w *timerWaker) Set(d time.Duration) {
	if d <= 0 {
		w.ring()
		return
	}
	w.timer.Reset(d)
}

func (w *timerWaker) C() <-chan struct{} { return w.c }
func (w *timerWaker) Close()             { w.timer.Stop() }

// silentWatch watches a clock that is never set.
type silentWatch struct{}

func (silentWatch) C() <-chan struct{} { return nil }
func (silentWatch) Close()             {}

func testTimers() timers {
	return timers{newAlarm: newTimerWaker, watchClock: func() clockWatch { return silentWatch{} }}
}

// testClock returns a clock with a reading, and testSet moves the database's clock by d.
func testClock() *clock {
	c := newClock(discard())
	time.Sleep(time.Second)
	c.observe(driver.DBTime(c.local()/time.Microsecond), c.local(), c.local())
	return c
}

func testSet(c *clock, d time.Duration) {
	c.observe(c.Now().Add(d), c.local(), c.local())
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

var errAway = errors.New("the server is away")

// fakeJournal answers with the results of its functions, and remembers its calls.
type fakeJournal struct {
	mu          sync.Mutex
	claims      []driver.ClaimRequest // guarded by mu
	resolved    []driver.ClaimRequest // guarded by mu
	sifted      [][]int64             // guarded by mu
	quarantined []driver.BadJob       // guarded by mu
	settled     [][]driver.Settlement // guarded by mu
	calls       []string              // guarded by mu: of all kinds, with arguments of some

	claim   func(ctx context.Context, req driver.ClaimRequest) (driver.Batch, error)
	resolve func(req driver.ClaimRequest) (driver.Batch, driver.Lease, bool, error)
	sift    func(ids []int64) ([]driver.BadJob, error)
	settle  func(ctx context.Context, s []driver.Settlement) ([]driver.Receipt, error)
	recover func(lease driver.Lease) ([]driver.Batch, error)
	reopen  func(lease driver.Lease, round int64, mark string) error
}

func (j *fakeJournal) note(call string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.calls = append(j.calls, call)
}

func (j *fakeJournal) Claim(ctx context.Context, req driver.ClaimRequest) (driver.Batch, error) {
	j.mu.Lock()
	j.claims = append(j.claims, req)
	j.mu.Unlock()
	if j.claim != nil {
		return j.claim(ctx, req)
	}
	return claimAll(req), nil
}

// claimAll is the answer to a claim that gets everything.
func claimAll(req driver.ClaimRequest) driver.Batch {
	b := driver.Batch{Token: req.Token, FirstSlot: req.FirstSlot, Reach: req.Reach, QoS: req.QoS}
	for _, id := range req.IDs {
		b.Jobs = append(b.Jobs, driver.Job{ID: id, Topic: "t"})
	}
	return b
}

func (j *fakeJournal) ResolveClaim(_ context.Context, req driver.ClaimRequest) (driver.Batch, driver.Lease, bool, error) {
	j.mu.Lock()
	j.resolved = append(j.resolved, req)
	j.mu.Unlock()
	return j.resolve(req)
}

func (j *fakeJournal) Sift(_ context.Context, ids []int64) ([]driver.BadJob, error) {
	j.mu.Lock()
	j.sifted = append(j.sifted, ids)
	j.mu.Unlock()
	if j.sift == nil {
		return nil, nil
	}
	return j.sift(ids)
}

func (j *fakeJournal) Quarantine(_ context.Context, bad []driver.BadJob) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.quarantined = append(j.quarantined, bad...)
	return nil
}

func (j *fakeJournal) Settle(ctx context.Context, s []driver.Settlement) ([]driver.Receipt, error) {
	j.mu.Lock()
	j.settled = append(j.settled, s)
	j.mu.Unlock()
	j.note("settle")
	if j.settle != nil {
		return j.settle(ctx, s)
	}
	return allHeld(s), nil
}

// allHeld is the answer to settlements that are recorded.
func allHeld(s []driver.Settlement) []driver.Receipt {
	list := make([]driver.Receipt, len(s))
	for i := range list {
		list[i].Recorded = true
	}
	return list
}

func (j *fakeJournal) Unsettled(ctx context.Context, lease driver.Lease, largePayload int) ([]driver.Unsettled, error) {
	batches, err := j.Recover(ctx, lease)
	var list []driver.Unsettled
	for _, b := range batches {
		u := driver.Unsettled{Token: b.Token}
		for _, job := range b.Jobs {
			if n := len(job.Payload); n < largePayload {
				u.SmallBytes += n
			} else {
				u.LargeBytes += n
			}
		}
		list = append(list, u)
	}
	return list, err
}

func (j *fakeJournal) Recover(_ context.Context, lease driver.Lease) ([]driver.Batch, error) {
	j.note("recover")
	if j.recover == nil {
		return nil, nil
	}
	return j.recover(lease)
}

func (j *fakeJournal) Follow(_ context.Context, keys []int64) (list []driver.Follower, _ error) {
	j.note("follow")
	for _, key := range keys {
		list = append(list, driver.Follower{ID: key + 1})
	}
	return list, nil
}

func (j *fakeJournal) Reopen(_ context.Context, lease driver.Lease, round int64, mark string) error {
	j.note("reopen")
	if j.reopen == nil {
		return nil
	}
	return j.reopen(lease, round, mark)
}

func (j *fakeJournal) Mark(context.Context, driver.Lease, string) error {
	j.note("mark")
	return nil
}
