package reactor

import (
	"sync"
	"sync/atomic"
	"time"
)

// lead is how long before fire_at a job is claimed: long enough for the claim's commit to be done in
// time, and, where messages are staged, for the broker to have the message and the journal to know
// that; short enough for a cancellation to be honoured until the last milliseconds. It follows what is
// measured, each by its mean and four mean deviations, as TCP's retransmission timer does (RFC 6298).
type lead struct {
	value atomic.Int64 // nanoseconds
	ahead atomic.Int64 // nanoseconds, see reach

	mu                 sync.Mutex
	claim, ack, settle smoothed // guarded by mu
	staging            int      // guarded by mu: lanes that stage
}

const (
	minLead = 3 * time.Millisecond
	maxLead = 100 * time.Millisecond
	// leadMargin covers the time from the wheel to the claim.
	leadMargin = time.Millisecond
	// maxStageLead bounds what is added where messages are staged. In a backlog acknowledgements
	// take long, and nothing is staged that is late already.
	maxStageLead = 25 * time.Millisecond
	// company is how much further ahead a claim reaches once it is to be made. It makes claims follow
	// the rate: at 1,000 jobs/s a claim takes 15 and not 3, which costs the database and us a
	// fraction, while what is due at 10 jobs/s is still claimed for itself.
	company = 12 * time.Millisecond
)

// smoothed is a smoothed duration with its deviation.
type smoothed struct{ mean, deviation time.Duration }

func (e *smoothed) observe(took time.Duration) {
	off := took - e.mean
	e.mean += off / 8
	if off < 0 {
		off = -off
	}
	e.deviation += (off - e.deviation) / 4
}

// most is what it hardly ever exceeds.
func (e *smoothed) most() time.Duration { return e.mean + 4*e.deviation }

func newLead() *lead {
	l := &lead{
		claim:  smoothed{5 * time.Millisecond, 2 * time.Millisecond},
		ack:    smoothed{time.Millisecond, time.Millisecond / 2},
		settle: smoothed{2 * time.Millisecond, time.Millisecond / 2},
	}
	l.store()
	return l
}

func (l *lead) get() time.Duration { return time.Duration(l.value.Load()) }

// reach is how far ahead jobs are due at most that a claim takes once it is to be made. Under a steady
// load one claim then follows the other, instead of one a job.
func (l *lead) reach() time.Duration { return time.Duration(l.ahead.Load()) }

// observe takes the duration of a claim into account.
func (l *lead) observe(took time.Duration) { l.take(&l.claim, took) }

// acknowledged takes it into account how long the broker took to answer, and settled how long a
// settlement took.
func (l *lead) acknowledged(took time.Duration) { l.take(&l.ack, took) }
func (l *lead) settled(took time.Duration)      { l.take(&l.settle, took) }

func (l *lead) take(e *smoothed, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.observe(took)
	l.store()
}

// stages notes that n more lanes stage.
func (l *lead) stages(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.staging += n
	l.store()
}

func (l *lead) store() {
	value := l.claim.most() + leadMargin
	if l.staging > 0 {
		// A settlement may have to wait for the one that is under way, and, for company, for a
		// quarter of the time that is left (handoff/settlement.go).
		value += min(maxStageLead, (l.ack.most()+2*l.settle.most())*4/3)
	}
	value = min(maxLead, max(minLead, value))
	l.value.Store(int64(value))
	l.ahead.Store(int64(min(2*maxLead, max(2*value, value+company))))
}
