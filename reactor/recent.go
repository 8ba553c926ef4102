package reactor

import (
	"sync"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// recent gathers the lateness of the last minute, for driver.Snapshot. It is a ring of histograms, one for each
// slice of the minute; the oldest is cleared and used again. The zero value is ready.
type recent struct {
	mu     sync.Mutex
	slices [recentSlices]recentSlice // guarded by mu
	sum    *histogram                // guarded by mu: scratch space of get
}

// recentSlice has the durations of one slice of time, the number-th since began.
type recentSlice struct {
	number    int64
	histogram *histogram // nil: the slice was never used
}

const (
	// recentWindow is what get tells of: this long, and a slice more at most.
	recentWindow = time.Minute
	recentLength = 10 * time.Second
	recentSlices = int(recentWindow/recentLength) + 1
)

// observe adds durations that were measured just now.
func (r *recent) observe(all ...time.Duration) { r.observeAt(time.Since(began), all...) }

// observeAt is observe at a time after began.
func (r *recent) observeAt(at time.Duration, all ...time.Duration) {
	if len(all) == 0 {
		return
	}
	number := int64(at / recentLength)
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.slices[uint64(number)%uint64(recentSlices)]
	switch {
	case s.histogram == nil:
		s.histogram = new(histogram)
	case s.number != number:
		*s.histogram = histogram{}
	}
	s.number = number
	for _, d := range all {
		s.histogram.record(min(max(d, 0), maxTiming).Microseconds())
	}
}

// get returns what was observed within the window.
func (r *recent) get() driver.Recent { return r.getAt(time.Since(began)) }

func (r *recent) getAt(at time.Duration) driver.Recent {
	number := int64(at / recentLength)
	r.mu.Lock()
	defer r.mu.Unlock()
	got := driver.Recent{Window: recentWindow}
	if r.sum == nil {
		r.sum = new(histogram)
	}
	*r.sum = histogram{}
	for i := range r.slices {
		if s := &r.slices[i]; s.histogram != nil && number-s.number < int64(recentSlices) {
			r.sum.add(s.histogram)
		}
	}
	if got.Jobs = r.sum.total; got.Jobs == 0 {
		return got
	}
	us := func(n int64) time.Duration { return time.Duration(n) * time.Microsecond }
	got.P50, got.P99, got.Max = us(r.sum.percentile(50)), us(r.sum.percentile(99)), us(r.sum.max)
	return got
}

// add adds the values of another histogram.
func (h *histogram) add(o *histogram) {
	if o.total == 0 {
		return
	}
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.total += o.total
	h.max = max(h.max, o.max)
}

// snapshot is what the instance tells of itself with its next heartbeat.
func (r *Reactor) snapshot() driver.Snapshot {
	s := r.vitals()
	h := s.Health()
	return driver.Snapshot{
		Ready: h.Ready, Problems: h.Problems, Published: s.Published, Failed: s.Failed,
		Pending: s.Pending, InFlight: s.InFlight, Shards: s.Shards, Lanes: s.Lanes, LanesUp: s.LanesUp,
		OldestDue: s.OldestDue, Recent: r.stats.recent.get(),
	}
}
