package reactor

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Timing says how long something took, each of the times it happened since New.
type Timing struct {
	Count int64
	Sum   time.Duration
	// P50, P99 and Max are exact to a hundredth, and from a microsecond to a minute.
	P50, P99, Max time.Duration
}

// Mean is 0 if it never happened.
func (t Timing) Mean() time.Duration { return t.Sum / time.Duration(max(t.Count, 1)) }

// timing gathers a Timing. The zero value is ready.
type timing struct {
	mu        sync.Mutex
	sum       time.Duration           // guarded by mu
	histogram *hdrhistogram.Histogram // guarded by mu: microseconds; nil: it never happened
}

const maxTiming = time.Minute

// observe adds durations.
func (t *timing) observe(all ...time.Duration) {
	if len(all) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.histogram == nil {
		t.histogram = hdrhistogram.New(1, maxTiming.Microseconds(), 2)
	}
	for _, d := range all {
		t.sum += d
		_ = t.histogram.RecordValue(min(max(d, 0), maxTiming).Microseconds()) // within its bounds
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
		return time.Duration(h.ValueAtPercentile(percentile)) * time.Microsecond
	}
	return Timing{Count: h.TotalCount(), Sum: t.sum, P50: at(50), P99: at(99), Max: time.Duration(h.Max()) * time.Microsecond}
}
