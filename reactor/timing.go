package reactor

import (
	"math"
	"sync"
	"time"
)

// Timing says how long something took, each of the times it happened since New.
type Timing struct {
	Count int64
	// Sum counts each time as one minute at most. Otherwise a single job that was inserted with
	// a fire_at of 4713 BC would outweigh all others. Sum never falls.
	Sum time.Duration
	// P50, P99 and Max are exact to a hundredth, in the range from a microsecond to a minute.
	P50, P99, Max time.Duration
}

// Mean is 0 if it never happened.
func (t Timing) Mean() time.Duration { return t.Sum / time.Duration(max(t.Count, 1)) }

// timing gathers a Timing. The zero value is ready.
type timing struct {
	mu        sync.Mutex
	sum       time.Duration // guarded by mu
	histogram *histogram    // guarded by mu: microseconds; nil: it never happened
}

// maxTiming is the longest time that is distinguished. The sum of 153 million such times
// reaches the longest Duration, 292 years.
const maxTiming = time.Minute

// observe adds durations.
func (t *timing) observe(all ...time.Duration) {
	if len(all) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.histogram == nil {
		t.histogram = new(histogram)
	}
	for _, d := range all {
		d = min(max(d, 0), maxTiming)
		t.sum += min(d, math.MaxInt64-t.sum)
		t.histogram.record(d.Microseconds())
	}
}

func (t *timing) get() Timing {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.histogram
	if h == nil {
		return Timing{}
	}
	at := func(percentile float64) time.Duration {
		return time.Duration(h.percentile(percentile)) * time.Microsecond
	}
	return Timing{Count: h.total, Sum: t.sum, P50: at(50), P99: at(99), Max: time.Duration(h.max) * time.Microsecond}
}
