package reactor

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestPercentiles compares with sorted values.
func TestPercentiles(t *testing.T) {
	limit := maxTiming.Microseconds()
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var h histogram
		values := make([]int64, 1+r.IntN(1000))
		for i := range values {
			values[i] = min(int64(math.Exp(r.Float64()*18)), limit) // all orders of magnitude are equally likely
			h.record(values[i])
		}
		slices.Sort(values)
		for _, percent := range []float64{0, 1, 50, 90, 99, 99.9, 100} {
			rank := max(int(math.Ceil(percent/100*float64(len(values)))), 1)
			want, got := values[rank-1], h.percentile(percent)
			if got < want || float64(got) > 1.01*float64(want) || want < 256 && got != want {
				t.Fatalf("percentile %v of %d values is %d, want %d", percent, len(values), got, want)
			}
		}
		if h.max != values[len(values)-1] || h.total != int64(len(values)) {
			t.Fatalf("%d values up to %d, want %d up to %d", h.total, h.max, len(values), values[len(values)-1])
		}
	}
}

// TestHistogramHasNoGaps: each index ends where the next one begins, up to the longest timing.
func TestHistogramHasNoGaps(t *testing.T) {
	var h histogram
	last := histogramIndex(maxTiming.Microseconds())
	if last >= len(h.counts) {
		t.Fatalf("the longest timing has index %d of %d", last, len(h.counts))
	}
	for i := range last {
		if end := largestAt(i); histogramIndex(end) != i || histogramIndex(end+1) != i+1 {
			t.Fatalf("index %d ends at %d, whose index is %d, followed by %d", i, end, histogramIndex(end), histogramIndex(end+1))
		}
	}
	if none := h.percentile(50); none != 0 {
		t.Errorf("the median of nothing is %d", none)
	}
}
