package reactor

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestPercentiles compares with sorted values.
func TestPercentiles(t *testing.T) {
	limit := maxTiming.Microseconds()
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var h histogram
		values := make([]int64, 1+r.IntN(1000))
		for i := range values {
			values[i] = min(max(int64(math.Exp(r.Float64()*18)), 1), limit) // all orders of magnitude are equally likely
			h.record(values[i])
		}
		slices.Sort(values)
		c := h.get()
		for _, percent := range []float64{0, 1, 50, 90, 99, 99.9, 100} {
			rank := max(int(math.Ceil(percent/100*float64(len(values)))), 1)
			want, got := values[rank-1], c.percentile(percent)
			if got < want || float64(got) > 1.01*float64(want) || want < 256 && got != want {
				t.Fatalf("percentile %v of %d values is %d, want %d", percent, len(values), got, want)
			}
		}
		if c.max != values[len(values)-1] || c.total != int64(len(values)) {
			t.Fatalf("%d values up to %d, want %d up to %d", c.total, c.max, len(values), values[len(values)-1])
		}
	}
}

// TestHistogramHasNoGaps: each index ends where the next one begins, up to the longest timing.
func TestHistogramHasNoGaps(t *testing.T) {
	var h histogram
	last := histogramIndex(maxValue)
	if last >= len(h.counts) {
		t.Fatalf("the largest value has index %d of %d", last, len(h.counts))
	}
	for i := range last {
		if end := largestAt(i); histogramIndex(end) != i || histogramIndex(end+1) != i+1 {
			t.Fatalf("index %d ends at %d, whose index is %d, followed by %d", i, end, histogramIndex(end), histogramIndex(end+1))
		}
	}
	if maxValue < maxTiming.Microseconds() || histogramIndex(1) != 0 {
		t.Error("not all timings have an index")
	}
	if none := h.get().percentile(50); none != 0 {
		t.Errorf("the median of nothing is %d", none)
	}
}

// TestExactBuckets: the ranges end where the classic buckets of our metrics do.
func TestExactBuckets(t *testing.T) {
	for end := int64(125); end <= maxTiming.Microseconds(); end *= 2 {
		if i := histogramIndex(end); largestAt(i) != end || histogramIndex(end+1) != i+1 {
			t.Errorf("%d is in the bucket that ends at %d", end, largestAt(i))
		}
	}
}

// TestHistogramLosesNothing: whatever is recorded at the same time is counted once.
func TestHistogramLosesNothing(t *testing.T) {
	t.Parallel()
	const goroutines, each = 8, 10_000
	var h histogram
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			for i := range each {
				h.record(int64(1 + (g*each+i)%1000))
				if i%1000 == 0 {
					h.get()
				}
			}
		})
	}
	all.Wait()
	if c := h.get(); c.total != goroutines*each || c.sum != goroutines*each*1001/2 || c.max != 1000 {
		t.Errorf("%d values of %d, up to %d", c.total, c.sum, c.max)
	}
}

// TestObservingAllocatesNothing: what is called for each job must not make garbage.
func TestObservingAllocatesNothing(t *testing.T) {
	var g timing
	var s sizes
	late := []time.Duration{time.Millisecond, time.Hour, -time.Second}
	if n := testing.AllocsPerRun(100, func() { g.observe(late...); s.observe(3) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkObserve is what a job costs for each of its times: from one goroutine, and from several that add to
// the same histogram.
func BenchmarkObserve(b *testing.B) {
	b.Run("alone", func(b *testing.B) {
		var g timing
		b.ReportAllocs()
		for i := range b.N {
			g.observe(time.Duration(i%5000) * time.Microsecond)
		}
	})
	b.Run("together", func(b *testing.B) {
		var g timing
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				g.observe(time.Duration(i%5000) * time.Microsecond)
			}
		})
	})
}
