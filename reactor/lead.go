package reactor

import (
	"sync"
	"sync/atomic"
	"time"
)

// lead is how long before fire_at a job is claimed: long enough for the claim's
// commit to be done in time, short enough for a cancellation to be honoured until
// the last milliseconds. It follows the measured claims: their mean and four mean
// deviations, as TCP's retransmission timer does (RFC 6298).
type lead struct {
	value atomic.Int64 // nanoseconds

	mu              sync.Mutex
	mean, deviation time.Duration // guarded by mu
}

const (
	minLead = 3 * time.Millisecond
	maxLead = 100 * time.Millisecond
	// leadMargin covers the time from the wheel to the claim.
	leadMargin = time.Millisecond
)

func newLead() *lead {
	l := &lead{mean: 5 * time.Millisecond, deviation: 2 * time.Millisecond}
	l.store()
	return l
}

func (l *lead) get() time.Duration { return time.Duration(l.value.Load()) }

// observe takes the duration of a claim into account.
func (l *lead) observe(took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	off := took - l.mean
	l.mean += off / 8
	if off < 0 {
		off = -off
	}
	l.deviation += (off - l.deviation) / 4
	l.store()
}

func (l *lead) store() {
	l.value.Store(int64(min(maxLead, max(minLead, l.mean+4*l.deviation+leadMargin))))
}
