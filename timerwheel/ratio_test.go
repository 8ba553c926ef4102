package timerwheel

import (
	"math"
	"testing"
	"time"
)

// This test fails if the wheel becomes much slower than a heap; the benchmarks show more, but
// nobody has to look at them. The bound is wide, so that the test never fails without a reason:
// with a million entries, expiring and scheduling takes a tenth of the time that container/heap
// takes, with the race detector a fifth, and must not take more than maxRatio. (If everything fits
// into the caches, the heap is faster, and the ratios are a quarter and two fifths.) The two take
// turns, and the best of several turns counts, because other load does not disturb that.
func TestCheaperThanHeap(t *testing.T) {
	const rounds, turns = 8, 1000
	deadlines := benchDeadlines(million)
	wheel := newSteady(newWheelScheduler(million, 256), deadlines)
	heap := newSteady(newHeapScheduler(million), deadlines)
	wheelBest, heapBest := math.Inf(1), math.Inf(1)
	for range rounds {
		wheelBest = min(wheelBest, wheel.cost(turns))
		heapBest = min(heapBest, heap.cost(turns))
	}
	ratio := wheelBest / heapBest
	t.Logf("expire and schedule: %.0f ns, %.2f of the heap's %.0f", wheelBest, ratio, heapBest)
	if ratio > maxRatio {
		t.Errorf("expiring and scheduling takes %.2f of what it takes a heap, want at most %.2f", ratio, maxRatio)
	}
}

// cost returns the nanoseconds that an entry takes in some turns.
func (s *steady) cost(turns int) float64 {
	begin := time.Now()
	replaced := 0
	for range turns {
		replaced += s.turn()
	}
	return float64(time.Since(begin)) / float64(replaced)
}
