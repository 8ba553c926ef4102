package reactor

import (
	"math"
	"math/bits"
)

// histogram counts durations in microseconds, up to maxTiming. A percentile is too large by
// less than a hundredth.
//
// As in HdrHistogram (https://hdrhistogram.github.io/HdrHistogram/), below 256 each value has a
// count of its own, and each power of two beyond that is divided into 128 parts. This type is
// all that we need of HdrHistogram, takes 20 KB, and saves our importers a dependency.
type histogram struct {
	counts [histogramParts * (histogramDoublings + 2)]int64
	total  int64
	max    int64
}

const (
	histogramParts = 128
	// histogramDoublings is how often 256 is doubled to exceed a minute of microseconds.
	histogramDoublings = 18
)

// record adds a value from 0 to maxTiming.
func (h *histogram) record(value int64) {
	h.counts[histogramIndex(value)]++
	h.total++
	h.max = max(h.max, value)
}

func histogramIndex(value int64) int {
	doublings := max(bits.Len64(uint64(value))-8, 0)
	return histogramParts*doublings + int(value>>doublings)
}

// largestAt is the largest value with an index.
func largestAt(index int) int64 {
	doublings := max(index/histogramParts-1, 0)
	return int64(index-histogramParts*doublings+1)<<doublings - 1
}

// percentile is the value that this percentage of all values does not exceed; 0 if there are no
// values.
func (h *histogram) percentile(percent float64) int64 {
	rank := max(int64(math.Ceil(percent/100*float64(h.total))), 1)
	for i, n := range h.counts {
		if rank -= n; rank <= 0 {
			return min(largestAt(i), h.max)
		}
	}
	return h.max
}
