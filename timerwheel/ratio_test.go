package timerwheel

import (
	"math"
	"testing"
	"time"
)

// The benchmarks say what the wheel costs, but nobody has to look. This is loose, so as never
// to fail without a reason: at a million pending, expiring and scheduling takes a tenth of
// what it takes container/heap, with the race detector a fifth, and must not take more than
// maxRatio. (Where all of it fits into the caches the heap does better, and it is a quarter
// and two fifths.) Taking turns, and the best of several, is what other load does not disturb.
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
