package timerwheel

import (
	"fmt"
	"math"
	"testing"
)

// Every number of entries, from lists on every level, partly and completely, and with many entries
// of one tick.
func TestEvictLatest(t *testing.T) {
	deadlines := map[string][]int64{
		"one tick":    {5000},
		"two ticks":   {5000, 5001},
		"level 0":     {1, 2, 3, 63},
		"one slot":    {4096, 4097, 4160, 5000, 8191},
		"all levels":  {1, 64, 4096, 1 << 18, 1 << 24, 1 << 40, 1 << 60, math.MaxInt64},
		"past":        {-5, 0, math.MinInt64},
		"past, ahead": {-5, 3, 70, 70, 1 << 30},
	}
	for name, list := range deadlines {
		for _, n := range []int{0, 1, 2, blockLen - 1, blockLen, blockLen + 1, 2*blockLen + 3, 3*blockLen - 1, 3 * blockLen, 1000} {
			for _, start := range []int64{0, -1 << 40} {
				t.Run(fmt.Sprintf("%s/n=%d/start=%d", name, n, start), func(t *testing.T) {
					m := newModel(t, start, 1)
					m.advance(0, 1) // from a position that is not the first
					for i := range 3 * blockLen {
						m.schedule(list[i%len(list)])
					}
					m.cancel(7)
					m.evict(n)
					m.schedule(list[0])
					m.evict(1)
					m.check()
					m.drain()
				})
			}
		}
	}
}

// Entries that an Advance with a limit has left over, and entries appended to them, can be evicted,
// too.
func TestEvictPending(t *testing.T) {
	for _, deadline := range blockDeadlines {
		for n := range 3*blockLen + 9 {
			m := newModel(t, 0, 1)
			for range 2 * blockLen {
				m.schedule(deadline)
			}
			m.schedule(deadline + 1)
			m.advance(deadline, blockLen/2)
			m.schedule(deadline - 5)
			m.schedule(deadline + 70)
			m.evict(n)
			m.advance(deadline, 3)
			m.evict(n / 2)
			m.check()
			m.drain()
		}
	}
}

// BenchmarkEvict refills a full wheel with entries that are due earlier, as reactor does. An op is one
// entry evicted and one scheduled.
func BenchmarkEvict(b *testing.B) {
	const capacity = 1 << 18
	deadlines := benchDeadlines(capacity)
	w := New[int](Config{Resolution: 256})
	for i, at := range deadlines {
		w.Schedule(i, at)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; {
		w.EvictLatest(capacity/64, func(int, int64) {})
		for w.Len() < capacity {
			w.Schedule(done, deadlines[done%capacity])
			done++
		}
	}
}
