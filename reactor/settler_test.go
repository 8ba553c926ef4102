package reactor

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/handoff"
)

// newsLane is a lane whose batches have news. It counts what is settled.
type newsLane struct {
	ids      map[*handoff.Batch]int64
	progress map[*handoff.Batch]int
	settledN []int // what settled was called with
	heldN    int   // of those where the lane was still ours
	lost     int64 // round
	lease    driver.Lease
	failures []driver.Failure // of each settlement
}

func (l *newsLane) settlement(f *handoff.Batch) driver.Settlement {
	return driver.Settlement{BatchID: l.ids[f], Concluded: l.progress[f], Failures: l.failures}
}

func (l *newsLane) settled(s driver.Settlement, _ *handoff.Batch, held bool) {
	l.settledN = append(l.settledN, s.Concluded)
	if held {
		l.heldN++
	}
}
func (l *newsLane) leaseNow() driver.Lease { return l.lease }
func (l *newsLane) lose(round int64)       { l.lost = round }

// settling is a running settler, and a lane with two batches.
type settling struct {
	*testing.T
	*settler
	journal *fakeJournal
	lane    *newsLane
	a, b    *handoff.Batch
	begun   time.Time
	cancel  context.CancelFunc
	done    chan struct{}
}

func settles(t *testing.T, journal *fakeJournal, test func(s *settling)) {
	synctest.Test(t, func(t *testing.T) {
		s := &settling{T: t, journal: journal, a: new(handoff.Batch), b: new(handoff.Batch), begun: time.Now(), done: make(chan struct{})}
		s.lane = &newsLane{ids: map[*handoff.Batch]int64{s.a: 1, s.b: 2}, progress: map[*handoff.Batch]int{s.a: 10, s.b: 20}}
		s.settler = newSettler(journal, newTurns(journal, nil, discard()), discard(), &counters{}, &progress{}, newLead())
		ctx, cancel := context.WithCancel(t.Context())
		s.cancel = cancel
		go func() {
			defer close(s.done)
			s.run(ctx)
		}()
		test(s)
		cancel()
		<-s.done
	})
}

// TestSettlementsAreRepeatedWordForWord: after an error nobody knows what was recorded. A
// second attempt with more content would count failures twice, so later news go into the next
// settlement.
func TestSettlementsAreRepeatedWordForWord(t *testing.T) {
	fails := 4
	journal := &fakeJournal{settle: func(_ context.Context, list []driver.Settlement) ([]driver.Receipt, error) {
		if fails--; fails >= 0 {
			return nil, errAway
		}
		return allHeld(list), nil
	}}
	settles(t, journal, func(s *settling) {
		s.add(s.lane, s.a, 0)
		synctest.Wait()
		s.lane.progress[s.a] = 11
		s.add(s.lane, s.b, 0)
		time.Sleep(time.Minute)
		synctest.Wait()
		calls := journal.settled
		if len(calls) != 6 {
			s.Fatalf("%d settlements", len(calls))
		}
		for i, list := range calls[:5] {
			if !reflect.DeepEqual(list, []driver.Settlement{{BatchID: 1, Concluded: 10}}) {
				s.Errorf("try %d: %+v", i, list)
			}
		}
		if !reflect.DeepEqual(calls[5], []driver.Settlement{{BatchID: 2, Concluded: 20}}) {
			s.Errorf("then: %+v", calls[5])
		}
		if !slices.Equal(s.lane.settledN, []int{10, 20}) || s.lane.heldN != 2 {
			s.Errorf("settled was called with %v", s.lane.settledN)
		}
	})
}

// TestSettlerPassesTheTurnOn: of settlements that end jobs with ordering keys, the next jobs are told.
func TestSettlerPassesTheTurnOn(t *testing.T) {
	journal := &fakeJournal{settle: func(_ context.Context, list []driver.Settlement) ([]driver.Receipt, error) {
		receipts := allHeld(list)
		receipts[0].Keys = []int64{6, 8}
		return receipts, nil
	}}
	settles(t, journal, func(s *settling) {
		var told []int64
		s.turns.turnOf = func(f driver.Follower) { told = append(told, f.ID) }
		ctx, cancel := context.WithCancel(s.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.turns.run(ctx)
		}()
		s.add(s.lane, s.a, 0)
		synctest.Wait()
		if !slices.Equal(told, []int64{7, 9}) {
			s.Errorf("%v are told", told)
		}
		cancel()
		<-ended
	})
}

// TestUrgentAndPatient: news that can wait are settled after their time, or together with
// urgent ones.
func TestUrgentAndPatient(t *testing.T) {
	settles(t, &fakeJournal{}, func(s *settling) {
		var at []time.Duration
		s.journal.settle = func(_ context.Context, list []driver.Settlement) ([]driver.Receipt, error) {
			at = append(at, time.Since(s.begun))
			return allHeld(list), nil
		}
		is := func(what string, want ...time.Duration) {
			s.Helper()
			time.Sleep(time.Second)
			synctest.Wait()
			if !slices.Equal(at, want) {
				s.Errorf("%s: settled after %v, want %v", what, at, want)
			}
			at, s.begun = nil, time.Now()
		}
		s.add(s.lane, s.a, 20*time.Millisecond)
		is("patient", 20*time.Millisecond)
		s.add(s.lane, s.a, 20*time.Millisecond)
		s.add(s.lane, s.b, 8*time.Millisecond)
		is("less patient", 8*time.Millisecond)
		s.add(s.lane, s.a, 8*time.Millisecond)
		s.add(s.lane, s.b, 20*time.Millisecond)
		is("more patient", 8*time.Millisecond)
		s.add(s.lane, s.a, 20*time.Millisecond)
		time.Sleep(5 * time.Millisecond)
		synctest.Wait()
		s.add(s.lane, s.b, 0)
		is("with an urgent one", 5*time.Millisecond)
		s.add(s.lane, s.a, 20*time.Millisecond)
		time.Sleep(time.Millisecond)
		synctest.Wait()
		s.hurry()
		is("hurried", time.Millisecond)
		sizes := []int{}
		for _, list := range s.journal.settled {
			sizes = append(sizes, len(list))
		}
		if !slices.Equal(sizes, []int{1, 2, 2, 2, 1}) {
			s.Errorf("settlements of %v batches", sizes)
		}
	})
}

// TestReopenTakesItsTurn: a session is begun anew after the settlement that is under way, and
// before the next, so that no settlement records for the new session what was true of the old
// one. If the reopening fails, the lane keeps its state.
func TestReopenTakesItsTurn(t *testing.T) {
	settles(t, &fakeJournal{}, func(s *settling) {
		s.journal.settle = func(_ context.Context, list []driver.Settlement) ([]driver.Receipt, error) {
			time.Sleep(time.Second)
			s.journal.note("settled")
			return allHeld(list), nil
		}
		s.journal.reopen = func(_ driver.Lease, round int64, mark string) error {
			if s.lane.lost != 0 || round != 7 || mark != "mark" {
				s.Errorf("round %d, mark %q, the lane has lost round %d before", round, mark, s.lane.lost)
			}
			time.Sleep(time.Second)
			s.journal.note("reopened")
			return nil
		}
		s.add(s.lane, s.a, 0)
		time.Sleep(time.Second / 2)
		synctest.Wait()
		reopened := make(chan error)
		go func() { reopened <- s.reopen(s.Context(), s.lane, 7, "mark") }()
		time.Sleep(time.Second)
		synctest.Wait()
		s.add(s.lane, s.b, 0)
		if err := <-reopened; err != nil || s.lane.lost != 7 {
			s.Errorf("%v, the lane has lost round %d", err, s.lane.lost)
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if want := []string{"settle", "settled", "reopen", "reopened", "settle", "settled"}; !slices.Equal(s.journal.calls, want) {
			s.Errorf("in order: %v, want %v", s.journal.calls, want)
		}
		s.journal.reopen = func(driver.Lease, int64, string) error { return driver.ErrLeaseLost }
		if err := s.reopen(s.Context(), s.lane, 8, ""); !errors.Is(err, driver.ErrLeaseLost) || s.lane.lost != 7 {
			s.Errorf("%v, the lane has lost round %d", err, s.lane.lost)
		}
	})
}

// TestSettlerEnds: the settler ends with its context, also while the journal can't be reached.
// What is not settled is left to the lanes' next owners, and settled is not called for it.
func TestSettlerEnds(t *testing.T) {
	settles(t, &fakeJournal{settle: func(context.Context, []driver.Settlement) ([]driver.Receipt, error) { return nil, errAway }}, func(s *settling) {
		s.add(s.lane, s.a, 0)
		time.Sleep(time.Minute)
		synctest.Wait()
		s.cancel()
		<-s.done
		if len(s.lane.settledN) != 0 || s.progress.settled.age() >= 0 {
			s.Error("what could not be settled is taken for settled")
		}
	})
}

// TestWhatComesOfASettlement: quiet is set, failures are counted, and a lane that is no longer
// ours is told so.
func TestWhatComesOfASettlement(t *testing.T) {
	journal := &fakeJournal{settle: func(context.Context, []driver.Settlement) ([]driver.Receipt, error) {
		return []driver.Receipt{{GivenUp: []driver.Failure{{JobID: 1}}}}, nil
	}}
	settles(t, journal, func(s *settling) {
		s.lane.failures = make([]driver.Failure, 3)
		s.add(s.lane, s.a, 0)
		<-s.quiet
		if s.lane.heldN != 0 || len(s.lane.settledN) != 1 {
			s.Errorf("settled was called with %v, %d held", s.lane.settledN, s.lane.heldN)
		}
		if s.stats.failed.Load() != 1 || s.stats.retried.Load() != 2 {
			s.Errorf("failed %d, retried %d", s.stats.failed.Load(), s.stats.retried.Load())
		}
	})
}

// TestForget: news of a lane that has ended are not settled any more, even if the settler was
// about to settle them.
func TestForget(t *testing.T) {
	journal := &fakeJournal{}
	settles(t, journal, func(s *settling) {
		s.turn <- struct{}{} // another lane's session is being reopened
		s.add(s.lane, s.a, 0)
		synctest.Wait()
		forgotten := make(chan struct{})
		go func() {
			defer close(forgotten)
			s.forget(s.lane)
		}()
		synctest.Wait()
		select {
		case <-forgotten:
			s.Error("forgotten while it may be settled")
		default:
		}
		s.endTurn()
		<-forgotten
		synctest.Wait()
		if len(s.lane.settledN) != 0 {
			s.Errorf("settled are %v of a lane that has ended", s.lane.settledN)
		}
	})
}
