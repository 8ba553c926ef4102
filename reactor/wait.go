package reactor

import (
	"cmp"
	"context"
	"math/rand/v2"
	"time"
)

// sleep waits for d and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// jitter returns d, give or take a tenth, so that instances don't march in step.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration((randomShare()-0.5)*0.2*float64(d))
}

// randomShare is a number from 0 up to 1.
func randomShare() float64 { return rand.Float64() }

// backoff is a pause that doubles with each failure. The zero value begins at
// minBackoff.
type backoff struct {
	next time.Duration
	most time.Duration // 0: maxBackoff
}

const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = 2 * time.Second
)

// sleep pauses and reports whether ctx is still alive.
func (b *backoff) sleep(ctx context.Context) bool { return sleep(ctx, b.take()) }

// take returns the pause to make now.
func (b *backoff) take() time.Duration {
	b.next = min(max(b.next, minBackoff), cmp.Or(b.most, maxBackoff))
	d := jitter(b.next)
	b.next *= 2
	return d
}

func (b *backoff) reset() { b.next = 0 }

// signal is a wake-up of which one at most is stored.
type signal chan struct{}

func newSignal() signal { return make(signal, 1) }

func (s signal) set() {
	select {
	case s <- struct{}{}:
	default:
	}
}
