package reactor

import (
	"math"
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
	// Buckets are all the times, in microseconds rounded up, by the ranges that hold any. They are in
	// order, and each range is less than a hundredth of its values wide. Ranges end at 125, 250 and 500,
	// and at 1,000 times each power of two.
	Buckets []Bucket `json:"-"`
}

// Mean is 0 if it never happened.
func (t Timing) Mean() time.Duration { return t.Sum / time.Duration(max(t.Count, 1)) }

// timing gathers a Timing. The zero value is ready. Any goroutine may add to it, without a lock.
type timing struct{ histogram histogram }

// maxTiming is the longest time that is distinguished.
const maxTiming = time.Minute

// observe adds durations.
func (t *timing) observe(all ...time.Duration) {
	for _, d := range all {
		d = min(max(d, 0), maxTiming)
		t.histogram.record(int64((d + time.Microsecond - 1) / time.Microsecond))
	}
}

func (t *timing) get() Timing {
	c := t.histogram.get()
	if c.total == 0 {
		return Timing{}
	}
	at := func(percentile float64) time.Duration { return microseconds(c.percentile(percentile)) }
	return Timing{Count: c.total, Sum: microseconds(c.sum), P50: at(50), P99: at(99), Max: microseconds(c.max), Buckets: c.buckets}
}

// microseconds does not overflow: a sum of 292 years, which is the longest Duration, stays there.
func microseconds(n int64) time.Duration {
	return time.Duration(min(n, math.MaxInt64/int64(time.Microsecond))) * time.Microsecond
}

// Sizes says of how many jobs something was, each of the times it happened since New.
type Sizes struct {
	Count, Sum, Max int64
	// Buckets are all the sizes, by the ranges that hold any, in order. Up to 256 each size has one.
	Buckets []Bucket `json:"-"`
}

// sizes gathers Sizes, as timing does.
type sizes struct{ histogram histogram }

// observe adds a number of jobs, if it is not 0.
func (s *sizes) observe(jobs int) {
	if jobs > 0 {
		s.histogram.record(int64(jobs))
	}
}

func (s *sizes) get() Sizes {
	c := s.histogram.get()
	return Sizes{c.total, c.sum, c.max, c.buckets}
}
