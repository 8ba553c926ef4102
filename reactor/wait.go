package reactor

import (
	"time"

	"github.com/job-publisher/reactor/reactor/internal/wait"
)

// What the lane waits with: the names of package wait, as its files use them.

// signal is a wake-up of which one at most is stored.
type signal chan struct{}

func newSignal() signal { return make(signal, 1) }

func (s signal) set() { wait.Signal(s).Set() }

// backoff is a wait.Backoff.
type backoff struct {
	most   time.Duration
	pauses wait.Backoff
}

func (b *backoff) take() time.Duration {
	b.pauses.Most = b.most
	return b.pauses.Take()
}

func (b *backoff) reset() { b.pauses.Reset() }
