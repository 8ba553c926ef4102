package reactor

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
)

// turns passes the turn on, of each ordering key of which jobs have ended. Nothing waits for it, and
// nothing depends on its success: jobs whose turn has come are looked at now and then anyway.
type turns struct {
	journal followJournal
	turnOf  func(driver.Follower)
	log     *slog.Logger
	wake    wait.Signal
	pulse   *pulse

	mu   sync.Mutex
	keys []int64 // guarded by mu: of which jobs have ended
}

// followJournal is what turns needs of driver.Journal.
type followJournal interface {
	Follow(ctx context.Context, keys []int64) ([]driver.Follower, error)
}

func newTurns(journal followJournal, turnOf func(driver.Follower), log *slog.Logger) *turns {
	return &turns{journal: journal, turnOf: turnOf, log: log, wake: wait.NewSignal()}
}

// pass notes that jobs with these keys have ended. It does not block.
func (t *turns) pass(keys []int64) {
	if len(keys) == 0 {
		return
	}
	t.mu.Lock()
	t.keys = append(t.keys, keys...)
	t.mu.Unlock()
	t.wake.Set()
}

// run passes turns on until ctx ends.
func (t *turns) run(ctx context.Context) {
	t.pulse.begin()
	defer t.pulse.end()
	for {
		t.pulse.rest()
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		}
		t.pulse.work()
		t.mu.Lock()
		keys := t.keys
		t.keys = nil
		t.mu.Unlock()
		slices.Sort(keys)
		followers, err := t.journal.Follow(ctx, slices.Compact(keys))
		if err != nil {
			t.log.Debug("cannot find the jobs that follow others; they are looked at later", "err", err)
		}
		for _, f := range followers {
			t.turnOf(f)
		}
	}
}
