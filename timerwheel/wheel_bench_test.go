package timerwheel

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// The load: deadlines spread evenly over a minute of microseconds, in random order, for
// values of 16 bytes. Every benchmark runs against container/heap in the same process, since
// only the ratio means something on another machine. An op is one entry throughout.
const (
	benchWindow = 60_000_000
	million     = 1_000_000
)

var benchResolutions = []int64{1, 64, 256, 1024}

type benchValue struct {
	id int64
	_  int64
}

func benchDeadlines(n int) []int64 {
	r := rand.New(rand.NewPCG(1, 2))
	deadlines := make([]int64, n)
	for i := range deadlines {
		deadlines[i] = 1 + r.Int64N(benchWindow)
	}
	return deadlines
}

// scheduler is what the benchmarks need of the wheel and of the heap.
type scheduler interface {
	schedule(i int, deadline int64)
	cancel(i int)
	advance(now int64)
	size() int
}

type wheelScheduler struct {
	*Wheel[benchValue]
	handles []Handle
	expired int
}

func newWheelScheduler(n int, resolution int64) *wheelScheduler {
	return &wheelScheduler{New[benchValue](Config{Resolution: resolution}), make([]Handle, n), 0}
}

func (s *wheelScheduler) schedule(i int, deadline int64) {
	s.handles[i] = s.Schedule(benchValue{id: int64(i)}, deadline)
}
func (s *wheelScheduler) cancel(i int) { s.Cancel(s.handles[i]) }
func (s *wheelScheduler) size() int    { return s.Len() }
func (s *wheelScheduler) advance(now int64) {
	s.Advance(now, math.MaxInt, func(benchValue, int64) { s.expired++ })
}

// heapScheduler is the textbook's: container/heap over pointers, each knowing its index so
// that it can be cancelled. Expired timers are reused, so it does not allocate either once
// it has grown.
type heapScheduler struct {
	heap    timerHeap
	timers  []*heapTimer
	free    []*heapTimer
	expired int
}

type heapTimer struct {
	value    benchValue
	deadline int64
	index    int
}

type timerHeap []*heapTimer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].deadline < h[j].deadline }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *timerHeap) Push(x any) {
	t := x.(*heapTimer)
	t.index = len(*h)
	*h = append(*h, t)
}

func (h *timerHeap) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return t
}

func newHeapScheduler(n int) *heapScheduler {
	return &heapScheduler{timers: make([]*heapTimer, n)}
}

func (s *heapScheduler) schedule(i int, deadline int64) {
	var t *heapTimer
	if last := len(s.free) - 1; last >= 0 {
		t, s.free = s.free[last], s.free[:last]
	} else {
		t = new(heapTimer)
	}
	t.value, t.deadline = benchValue{id: int64(i)}, deadline
	heap.Push(&s.heap, t)
	s.timers[i] = t
}

func (s *heapScheduler) cancel(i int) {
	s.free = append(s.free, heap.Remove(&s.heap, s.timers[i].index).(*heapTimer))
}
func (s *heapScheduler) size() int { return s.heap.Len() }
func (s *heapScheduler) advance(now int64) {
	for len(s.heap) > 0 && s.heap[0].deadline <= now {
		s.free = append(s.free, heap.Pop(&s.heap).(*heapTimer))
		s.expired++
	}
}

// forEachScheduler runs the benchmark with the heap and with the wheel at each resolution.
func forEachScheduler(b *testing.B, n int, bench func(b *testing.B, make func() scheduler, deadlines []int64)) {
	deadlines := benchDeadlines(n)
	b.Run("heap", func(b *testing.B) {
		b.ReportAllocs()
		bench(b, func() scheduler { return newHeapScheduler(n) }, deadlines)
	})
	for _, resolution := range benchResolutions {
		b.Run(fmt.Sprintf("wheel/resolution=%d", resolution), func(b *testing.B) {
			b.ReportAllocs()
			bench(b, func() scheduler { return newWheelScheduler(n, resolution) }, deadlines)
		})
	}
}

func fill(s scheduler, deadlines []int64) {
	for i, deadline := range deadlines {
		s.schedule(i, deadline)
	}
}

// BenchmarkSchedule fills an empty scheduler up to n entries, again and again.
func BenchmarkSchedule(b *testing.B)    { benchSchedule(b, million) }
func BenchmarkSchedule10M(b *testing.B) { benchSchedule(b, 10*million) }

func benchSchedule(b *testing.B, n int) {
	forEachScheduler(b, n, func(b *testing.B, make func() scheduler, deadlines []int64) {
		for done := 0; done < b.N; done += n {
			b.StopTimer()
			s := make()
			b.StartTimer()
			fill(s, deadlines[:min(n, b.N-done)])
		}
	})
}

// BenchmarkExpire drains n entries, a millisecond at a time.
func BenchmarkExpire(b *testing.B)    { benchExpire(b, million) }
func BenchmarkExpire10M(b *testing.B) { benchExpire(b, 10*million) }

func benchExpire(b *testing.B, n int) {
	forEachScheduler(b, n, func(b *testing.B, make func() scheduler, deadlines []int64) {
		for done := 0; done < b.N; {
			b.StopTimer()
			s := make()
			fill(s, deadlines)
			b.StartTimer()
			for now := int64(0); s.size() > 0 && done+n-s.size() < b.N; {
				now += 1000
				s.advance(now)
			}
			done += n - s.size()
		}
	})
}

// BenchmarkSteady keeps n entries pending: whatever expires in a millisecond is replaced by
// as many new entries up to a minute ahead. An op is one expiration and one schedule.
func BenchmarkSteady(b *testing.B)    { benchSteady(b, million) }
func BenchmarkSteady10M(b *testing.B) { benchSteady(b, 10*million) }

func benchSteady(b *testing.B, n int) {
	forEachScheduler(b, n, func(b *testing.B, make func() scheduler, deadlines []int64) {
		s := make()
		fill(s, deadlines)
		var now int64
		var next int
		turn := func() (replaced int) {
			now += 1000
			s.advance(now)
			for s.size() < n {
				s.schedule(next, now+deadlines[next])
				next = (next + 1) % n
				replaced++
			}
			return replaced
		}
		for now < benchWindow { // once round, so that the free list is as shuffled as it gets
			turn()
		}
		b.ResetTimer()
		for done := 0; done < b.N; {
			done += turn()
		}
	})
}

// BenchmarkCancel cancels n entries in the order they were scheduled, which is a random
// order for the slots and for the heap.
func BenchmarkCancel(b *testing.B)    { benchCancel(b, million) }
func BenchmarkCancel10M(b *testing.B) { benchCancel(b, 10*million) }

func benchCancel(b *testing.B, n int) {
	forEachScheduler(b, n, func(b *testing.B, make func() scheduler, deadlines []int64) {
		for done := 0; done < b.N; done += n {
			b.StopTimer()
			s := make()
			fill(s, deadlines)
			b.StartTimer()
			for i := range min(n, b.N-done) {
				s.cancel(i)
			}
		}
	})
}
