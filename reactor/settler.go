package reactor

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/job-publisher/reactor/internal/ratelog"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/handoff"
)

// settler writes to the journal which messages have ended. One settlement is under way at a
// time; what ends meanwhile goes into the next one, together.
type settler struct {
	journal  settleJournal
	log      *slog.Logger
	stats    *counters // written here, read by Stats alone
	progress *progress
	lead     *lead
	wake     wait.Signal
	quiet    wait.Signal // set after each settlement
	turns    *turns
	failures ratelog.Limiter
	givenUp  ratelog.Limiter
	pulse    *pulse

	turn chan struct{} // capacity one; taken while a settlement or a reopening is under way

	mu      sync.Mutex
	pending []unsettled // guarded by mu
	later   *time.Timer // guarded by mu: wakes run for news that are not urgent; nil: there are none
	laterAt time.Time   // guarded by mu: when later fires
}

// settleJournal is what the settler needs of driver.Journal.
type settleJournal interface {
	Settle(ctx context.Context, settlements []driver.Settlement) ([]driver.Receipt, error)
	Reopen(ctx context.Context, lease driver.Lease, round int64, mark string) error
}

// settledLane is what the settler needs of a lane.
type settledLane interface {
	// settlement describes the batch's present state for the journal.
	settlement(batch *handoff.Batch) driver.Settlement
	// settled processes a settlement that was committed. held tells whether the lane was still
	// ours.
	settled(s driver.Settlement, batch *handoff.Batch, held bool)
	leaseNow() driver.Lease
	// lose tells the lane that the broker has lost its session, so that the state of its
	// messages is void.
	lose(round int64)
}

// unsettled is a batch with news for the journal.
type unsettled struct {
	lane  settledLane
	batch *handoff.Batch
}

// newSettler returns a settler that has nothing to settle.
func newSettler(journal settleJournal, turns *turns, log *slog.Logger, stats *counters, progress *progress, lead *lead) *settler {
	return &settler{lead: lead, turns: turns, journal: journal, log: log, stats: stats, progress: progress, wake: wait.NewSignal(), quiet: wait.NewSignal(), turn: make(chan struct{}, 1)}
}

// add takes a batch, to be settled within a time; it does not block.
func (s *settler) add(l settledLane, batch *handoff.Batch, within time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = append(s.pending, unsettled{l, batch})
	if within == 0 {
		s.wake.Set()
		return
	}
	if at := time.Now().Add(within); s.later == nil || at.Before(s.laterAt) {
		if s.later != nil {
			s.later.Stop()
		}
		s.later, s.laterAt = time.AfterFunc(within, s.wake.Set), at
	}
}

// hurry makes run settle at once what was added.
func (s *settler) hurry() { s.wake.Set() }

// run settles until ctx ends. What is not settled by then stays in the journal, for the lanes'
// next owners.
func (s *settler) run(ctx context.Context) {
	defer s.sumUp()
	s.pulse.begin()
	defer s.pulse.end()
	// The log sums up the jobs that were given up within an interval.
	sums := time.NewTicker(ratelog.Interval)
	defer sums.Stop()
	for {
		s.pulse.rest()
		select {
		case <-ctx.Done():
			return
		case <-sums.C:
			s.sumUp()
			continue
		case <-s.wake:
		}
		s.pulse.work()
		// The turn comes first: news that were taken without it could be settled after forget
		// has returned.
		if !s.takeTurn(ctx) {
			return
		}
		ok := s.settle(ctx, s.take())
		s.endTurn()
		if !ok {
			return
		}
	}
}

// take returns all pending news.
func (s *settler) take() []unsettled {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.later != nil {
		s.later.Stop()
		s.later = nil
	}
	batches := s.pending
	s.pending = nil
	return batches
}

// settle repeats the same settlement until it succeeds. A repetition is harmless. But if the
// first attempt has an unknown outcome, a second one with more content would count failures
// twice. The caller has the turn.
func (s *settler) settle(ctx context.Context, batches []unsettled) bool {
	if len(batches) == 0 {
		return true
	}
	settlements := make([]driver.Settlement, len(batches))
	for i, b := range batches {
		settlements[i] = b.lane.settlement(b.batch)
	}
	var (
		pause    wait.Backoff
		outcomes []driver.Receipt
		err      error
	)
	for {
		s.pulse.work()
		begun := time.Now()
		outcomes, err = s.journal.Settle(ctx, settlements)
		if err == nil {
			s.stats.settle.observe(time.Since(begun))
			s.stats.settleSizes.observe(len(settlements))
			s.lead.settled(time.Since(begun))
			s.progress.settled.touch()
			break
		}
		if ctx.Err() != nil {
			return false
		}
		s.failures.Fail(s.log, slog.LevelWarn, "cannot settle; trying again", "batches", len(batches), "err", err)
		if !pause.Sleep(ctx) {
			return false
		}
	}
	s.failures.OK(s.log, "settling again")
	for i, b := range batches {
		s.count(settlements[i], outcomes[i])
		b.lane.settled(settlements[i], b.batch, outcomes[i].Recorded)
	}
	s.quiet.Set()
	s.turns.pass(outcomes[0].Keys)
	return true
}

// count counts the jobs that were not published, and logs those that never will be.
func (s *settler) count(st driver.Settlement, outcome driver.Receipt) {
	s.stats.retried.Add(int64(len(st.Failures) - len(outcome.GivenUp)))
	s.stats.failed.Add(int64(len(outcome.GivenUp)))
	for _, f := range outcome.GivenUp {
		switch f.State {
		case driver.Expired:
			s.stats.expired.Add(1)
		case driver.Missed:
			s.stats.missed.Add(1)
		}
		s.givenUp.Fail(s.log, slog.LevelWarn, "a job is given up, it is in reactor.failed_jobs", "job", f.JobID, "topic", loggedTopic(f.Topic), "err", f.Reason)
	}
}

// loggedTopic returns the part of a topic that is logged: it comes from whoever may insert jobs, and has up to 65,535
// bytes.
func loggedTopic(topic string) string {
	const most = 200
	if len(topic) <= most {
		return topic
	}
	return strings.ToValidUTF8(topic[:most], "") + "…"
}

func (s *settler) sumUp() {
	s.givenUp.Sum(s.log, slog.LevelWarn, "more jobs were given up, they are in reactor.failed_jobs")
}

// reopen makes the journal, and then the lane, forget the state of messages whose session the
// broker has lost. It waits for a settlement that is under way.
func (s *settler) reopen(ctx context.Context, l settledLane, round int64, mark string) error {
	if !s.takeTurn(ctx) {
		return ctx.Err()
	}
	defer s.endTurn()
	if err := s.journal.Reopen(ctx, l.leaseNow(), round, mark); err != nil {
		return err
	}
	l.lose(round)
	return nil
}

// forget drops the news of a lane that has ended, and returns when no settlement is under way
// that may concern the lane: the lane's next owner reads the journal after that. The journal
// can't tell the next owner from us if it is the same instance. forget does not use the lane's
// context, which may have ended; a settlement ends with the settler's context at the latest.
func (s *settler) forget(l settledLane) {
	s.mu.Lock()
	s.pending = slices.DeleteFunc(s.pending, func(u unsettled) bool { return u.lane == l })
	s.mu.Unlock()
	s.turn <- struct{}{}
	s.endTurn()
}

// takeTurn waits until the turn is free and takes it. It returns false if ctx ends first.
func (s *settler) takeTurn(ctx context.Context) bool {
	select {
	case s.turn <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *settler) endTurn() { <-s.turn }

// newRound returns a number that no other round of a lane has.
func newRound() int64 { return 1 + rand.Int64N(1<<62) }
