package timerwheel

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// The load: deadlines spread evenly over a minute of microseconds, in random order, for
// values of 16 bytes.
const (
	benchWindow = 60_000_000
	million     = 1_000_000
)

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

// scheduler is what the benchmarks need from each contender. For each entry its owner keeps 8 bytes, to
// cancel it; they are allocated beforehand.
type scheduler interface {
	schedule(i int, deadline int64)
	cancel(i int)
	advance(now int64)
	size() int
}

func fill(s scheduler, deadlines []int64) {
	for i, deadline := range deadlines {
		s.schedule(i, deadline)
	}
}

// contender creates a scheduler for n entries.
type contender struct {
	name string
	make func(n int) scheduler
	step int64 // by which to advance it
}

// millisecond is the step of an owner that wakes up when entries are due.
const millisecond = 1000

func wheelContender(resolution int64) contender {
	name := fmt.Sprintf("wheel/resolution=%d", resolution)
	return contender{name, func(n int) scheduler { return newWheelScheduler(n, resolution) }, millisecond}
}

var (
	heapContender    = contender{"heap", newHeapScheduler, millisecond}
	runtimeContender = contender{"runtime", newRuntimeScheduler, 0}
	wheelContenders  = []contender{wheelContender(1), wheelContender(64), wheelContender(256), wheelContender(1024)}
)

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

// heapScheduler is the textbook solution: container/heap over pointers. Each timer stores its index, so
// that it can be cancelled. Expired timers are reused, so it does not allocate any more once it has
// grown.
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

func newHeapScheduler(n int) scheduler {
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

// runtimeScheduler keeps a timer of Go's runtime for each entry. These run on real time, in goroutines;
// so no entry becomes due in the benchmarks, and only schedule, cancel and memory can be compared.
type runtimeScheduler struct{ timers []*time.Timer }

func newRuntimeScheduler(n int) scheduler { return &runtimeScheduler{make([]*time.Timer, n)} }

func (s *runtimeScheduler) schedule(i int, deadline int64) {
	value := benchValue{id: int64(i)}
	s.timers[i] = time.AfterFunc(time.Hour+time.Duration(deadline)*time.Microsecond, func() { _ = value.id })
}
func (s *runtimeScheduler) cancel(i int)  { s.timers[i].Stop() }
func (s *runtimeScheduler) size() int     { panic("not counted") }
func (s *runtimeScheduler) advance(int64) { panic("cannot be told the time") }
