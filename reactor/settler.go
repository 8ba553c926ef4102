package reactor

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/job-publisher/reactor/internal/ratelog"
)

// settler tells the journal what has ended. One settlement is under way at a time;
// what ends meanwhile goes together into the next.
type settler struct {
	source   Journal
	log      *slog.Logger
	stats    *counters
	wake     signal
	quiet    signal // set after each settlement
	failures ratelog.Limiter

	mu      sync.Mutex
	pending []landed // guarded by mu
}

// landed is a batch with news for the journal.
type landed struct {
	lane   *lane
	flying *flying
}

// add takes a batch; it does not block.
func (s *settler) add(l *lane, f *flying) {
	s.mu.Lock()
	s.pending = append(s.pending, landed{l, f})
	s.mu.Unlock()
	s.wake.set()
}

// run settles until ctx ends. What is not settled then stays in the journal, for the
// lanes' next owners.
func (s *settler) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		s.mu.Lock()
		batches := s.pending
		s.pending = nil
		s.mu.Unlock()
		if !s.settle(ctx, batches) {
			return
		}
	}
}

// settle repeats until it succeeds: settling twice is harmless.
func (s *settler) settle(ctx context.Context, batches []landed) bool {
	if len(batches) == 0 {
		return true
	}
	settlements := make([]Settlement, len(batches))
	var pause backoff
	for {
		for i, b := range batches {
			settlements[i] = b.lane.settlement(b.flying)
		}
		begun := time.Now()
		err := s.source.Settle(ctx, settlements)
		if err == nil {
			s.stats.settled(begun)
			break
		}
		if ctx.Err() != nil {
			return false
		}
		s.failures.Fail(s.log, slog.LevelWarn, "cannot settle; trying again", "batches", len(batches), "err", err)
		if !pause.sleep(ctx) {
			return false
		}
	}
	s.failures.OK(s.log, "settling again")
	for i, b := range batches {
		s.stats.failed.Add(int64(len(settlements[i].Failures)))
		b.lane.release(settlements[i], b.flying)
	}
	s.quiet.set()
	return true
}
