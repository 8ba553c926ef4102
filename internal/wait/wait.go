// Package wait provides the ways in which the stages wait: pauses that end with a context,
// pauses that grow with each failure, and wake-ups.
package wait

import (
	"cmp"
	"context"
	"math/rand/v2"
	"time"
)

// Sleep waits for d. It returns false if ctx ends first.
func Sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Jitter returns d, give or take a tenth, so that instances don't act in step.
func Jitter(d time.Duration) time.Duration {
	return d + time.Duration((RandomShare()-0.5)*0.2*float64(d))
}

// RandomShare returns a random number from 0 up to, not including, 1.
func RandomShare() float64 { return rand.Float64() }

// Backoff is a pause that doubles with each failure. The zero value begins at
// MinBackoff.
type Backoff struct {
	Most time.Duration // 0: MaxBackoff
	next time.Duration
}

const (
	// MinBackoff is the first pause of a Backoff, and MaxBackoff the longest if Most is 0; both
	// give or take a tenth.
	MinBackoff = 50 * time.Millisecond
	MaxBackoff = 2 * time.Second
)

// Sleep makes the next pause. It returns false if ctx ends first.
func (b *Backoff) Sleep(ctx context.Context) bool { return Sleep(ctx, b.Take()) }

// Take returns the next pause, without making it.
func (b *Backoff) Take() time.Duration {
	b.next = min(max(b.next, MinBackoff), cmp.Or(b.Most, MaxBackoff))
	d := Jitter(b.next)
	b.next *= 2
	return d
}

// Reset makes the next pause the shortest again.
func (b *Backoff) Reset() { b.next = 0 }

// Signal is a wake-up; it stores one at most.
type Signal chan struct{}

// NewSignal returns a Signal that is not set.
func NewSignal() Signal { return make(Signal, 1) }

// Set wakes whoever receives from s, now or next.
func (s Signal) Set() {
	select {
	case s <- struct{}{}:
	default:
	}
}
