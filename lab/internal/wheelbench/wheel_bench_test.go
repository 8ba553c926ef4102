package wheelbench

import (
	"math"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/job-publisher/reactor/timerwheel"
)

// The load is that of timerwheel's benchmarks: deadlines in microseconds, spread evenly over a
// minute, in random order. Values have 16 bytes.
const (
	benchWindow = 60_000_000
	million     = 1_000_000
	millisecond = 1000 // how far each call advances the wheel
)

func benchDeadlines(n int) []int64 {
	r := rand.New(rand.NewPCG(1, 2))
	deadlines := make([]int64, n)
	for i := range deadlines {
		deadlines[i] = 1 + r.Int64N(benchWindow)
	}
	return deadlines
}

// scheduler is what the benchmarks need of an implementation.
type scheduler interface {
	schedule(i int, deadline int64)
	cancel(i int)
	advance(now int64)
	size() int
}

type implementation struct {
	name string
	make func(n int) scheduler
	step int64 // how far each call advances it, in microseconds
}

// implementations are the wheel at the resolution that reactor uses, and that of nats-server.
var implementations = []implementation{
	{"wheel", newWheelScheduler, millisecond},
	{"nats-thw", newNATSScheduler, 2 * benchWindow},
}

type benchValue struct {
	id int64
	_  int64
}

type wheelScheduler struct {
	*timerwheel.Wheel[benchValue]
	handles []timerwheel.Handle
	expired int
}

func newWheelScheduler(n int) scheduler {
	return &wheelScheduler{timerwheel.New[benchValue](timerwheel.Config{Resolution: 256}), make([]timerwheel.Handle, n), 0}
}

func (s *wheelScheduler) schedule(i int, deadline int64) {
	s.handles[i] = s.Schedule(benchValue{id: int64(i)}, deadline)
}
func (s *wheelScheduler) cancel(i int) { s.Cancel(s.handles[i]) }
func (s *wheelScheduler) size() int    { return s.Len() }
func (s *wheelScheduler) advance(now int64) {
	s.Advance(now, math.MaxInt, func(benchValue, int64) { s.expired++ })
}

// Each benchmark schedules a million entries, and a million more when these are used up. An op is
// one entry.

func BenchmarkSchedule(b *testing.B) {
	forEach(b, func(b *testing.B, c implementation, deadlines []int64) {
		for done := 0; done < b.N; done += len(deadlines) {
			b.StopTimer()
			s := c.make(len(deadlines))
			b.StartTimer()
			fill(s, deadlines[:min(len(deadlines), b.N-done)])
		}
	})
}

func BenchmarkExpire(b *testing.B) {
	forEach(b, func(b *testing.B, c implementation, deadlines []int64) {
		for done := 0; done < b.N; {
			b.StopTimer()
			s := c.make(len(deadlines))
			fill(s, deadlines)
			b.StartTimer()
			for now := c.step; done < b.N && s.size() > 0; now += c.step {
				before := s.size()
				s.advance(now)
				done += before - s.size()
			}
		}
	})
}

func BenchmarkCancel(b *testing.B) {
	forEach(b, func(b *testing.B, c implementation, deadlines []int64) {
		for done := 0; done < b.N; {
			b.StopTimer()
			s := c.make(len(deadlines))
			fill(s, deadlines)
			b.StartTimer()
			for i := 0; i < len(deadlines) && done < b.N; i++ {
				s.cancel(i)
				done++
			}
		}
	})
}

// BenchmarkBytes measures how many bytes of the heap an entry uses.
func BenchmarkBytes(b *testing.B) {
	forEach(b, func(b *testing.B, c implementation, deadlines []int64) {
		s := c.make(len(deadlines))
		before := heapBytes()
		fill(s, deadlines)
		b.ReportMetric(float64(heapBytes()-before)/float64(len(deadlines)), "B/entry")
		b.ReportMetric(0, "ns/op")
		runtime.KeepAlive(s)
	})
}

func forEach(b *testing.B, bench func(b *testing.B, c implementation, deadlines []int64)) {
	deadlines := benchDeadlines(million)
	for _, c := range implementations {
		runtime.GC() // free the memory of the implementation before
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			bench(b, c, deadlines)
		})
	}
}

func fill(s scheduler, deadlines []int64) {
	for i, deadline := range deadlines {
		s.schedule(i, deadline)
	}
}

// heapBytes returns the size of the live heap.
func heapBytes() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
