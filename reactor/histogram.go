package reactor

import (
	"math"
	"math/bits"
	"sync/atomic"
)

// histogram counts values from 1 to maxValue, for example microseconds. A percentile is too large
// by less than a hundredth. record may be called from any goroutine: it takes no lock and allocates
// nothing, as it is called for each job. The zero value is ready.
//
// As in HdrHistogram (https://hdrhistogram.github.io/HdrHistogram/), up to 256 each value has a
// count of its own, and each power of two beyond that is divided into 128 parts. This type is
// all that we need of HdrHistogram, takes 20 KB, and saves our importers a dependency.
//
// Here a bucket ends with its largest value, and not before the next one's smallest. So
// 1,000 times a power of two is the end of a bucket, as are 125, 250 and 500: the classic buckets of
// Prometheus that end there are exact, and among them is the millisecond that we promise.
type histogram struct {
	counts [histogramParts * (histogramDoublings + 2)]atomic.Int64
	sum    atomic.Int64
	max    atomic.Int64
}

const (
	histogramParts = 128
	// histogramDoublings is how often 256 is doubled to exceed a minute of microseconds.
	histogramDoublings = 18
	maxValue           = 256 << histogramDoublings
)

// record adds a value. A value below 1 counts as 1, and one above maxValue as that.
func (h *histogram) record(value int64) {
	value = min(max(value, 1), maxValue)
	h.counts[histogramIndex(value)].Add(1)
	h.sum.Add(value)
	for most := h.max.Load(); value > most && !h.max.CompareAndSwap(most, value); most = h.max.Load() {
	}
}

// histogramIndex is the bucket of a value of 1 or more.
func histogramIndex(value int64) int {
	value-- // a bucket ends with its largest value
	doublings := max(bits.Len64(uint64(value))-8, 0)
	return histogramParts*doublings + int(value>>doublings)
}

// largestAt is the largest value of a bucket.
func largestAt(index int) int64 {
	doublings := max(index/histogramParts-1, 0)
	return int64(index-histogramParts*doublings+1) << doublings
}

// Bucket is a range of values, and how many there were.
type Bucket struct {
	// Most is the largest value of the range.
	Most int64
	// Count is how many values were in it.
	Count int64
}

// counted is what a histogram holds at some moment.
type counted struct {
	buckets         []Bucket // those that are not empty, in order
	total, sum, max int64
}

// get reads the histogram. What is recorded meanwhile is in it or not; total is always the sum of
// the buckets.
func (h *histogram) get() counted {
	c := counted{sum: h.sum.Load(), max: h.max.Load()}
	for i := range h.counts {
		if n := h.counts[i].Load(); n > 0 {
			c.buckets = append(c.buckets, Bucket{largestAt(i), n})
			c.total += n
		}
	}
	return c
}

// percentile is the value that this percentage of all values does not exceed; 0 if there are no
// values.
func (c counted) percentile(percent float64) int64 {
	rank := max(int64(math.Ceil(percent/100*float64(c.total))), 1)
	for _, b := range c.buckets {
		if rank -= b.Count; rank <= 0 {
			return min(b.Most, max(c.max, 1))
		}
	}
	return c.max
}
