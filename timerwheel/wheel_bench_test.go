package timerwheel

import (
	"runtime"
	"testing"
)

// Every benchmark runs against container/heap in the same process, and where that compares
// against the runtime's timers, since only the ratio means something on another machine. An
// op is one entry throughout. Those of ten million take the resolution that package reactor
// uses, and are for looking at how much the size matters.

// forEach runs a benchmark of n entries with some contenders.
func forEach(b *testing.B, n int, contenders []contender, bench func(b *testing.B, c contender, deadlines []int64)) {
	deadlines := benchDeadlines(n)
	for _, c := range contenders {
		runtime.GC() // of the one before
		bench(b, c, deadlines)
	}
}

func allWith(others ...contender) []contender {
	return append(append([]contender{heapContender}, others...), wheelContenders...)
}

var tenMillion = []contender{heapContender, wheelContender(256)}

// BenchmarkSchedule fills an empty scheduler up to n entries, again and again.
func BenchmarkSchedule(b *testing.B) {
	benchSchedule(b, million, allWith(runtimeContender))
}
func BenchmarkSchedule10M(b *testing.B) { benchSchedule(b, 10*million, tenMillion) }

func benchSchedule(b *testing.B, n int, contenders []contender) {
	forEach(b, n, contenders, func(b *testing.B, c contender, deadlines []int64) {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for done := 0; done < b.N; done += n {
				b.StopTimer()
				s := c.make(n)
				part := deadlines[:min(n, b.N-done)]
				b.StartTimer()
				fill(s, part)
				b.StopTimer()
				stop(s, len(part))
				b.StartTimer()
			}
		})
	})
}

// stop ends timers that would otherwise stay pending in the runtime.
func stop(s scheduler, n int) {
	if s, ok := s.(*runtimeScheduler); ok {
		for i := range n {
			s.cancel(i)
		}
	}
}

// BenchmarkExpire drains n entries, a millisecond at a time. As the runs of growing b.N go on
// where the one before ended, even ten million are filled in only once or twice.
func BenchmarkExpire(b *testing.B)    { benchExpire(b, million, allWith()) }
func BenchmarkExpire10M(b *testing.B) { benchExpire(b, 10*million, tenMillion) }

func benchExpire(b *testing.B, n int, contenders []contender) {
	forEach(b, n, contenders, func(b *testing.B, c contender, deadlines []int64) {
		s, now := c.make(n), int64(0)
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for done := 0; done < b.N; {
				if s.size() == 0 {
					b.StopTimer()
					s, now = c.make(n), 0
					fill(s, deadlines)
					b.StartTimer()
				}
				for done < b.N && s.size() > 0 {
					now += c.step
					before := s.size()
					s.advance(now)
					done += before - s.size()
				}
			}
		})
	})
}

// BenchmarkSteady keeps n entries pending: whatever expires in a millisecond is replaced by
// as many new entries up to a minute ahead. An op is one expiration and one schedule.
func BenchmarkSteady(b *testing.B)    { benchSteady(b, million, allWith()) }
func BenchmarkSteady10M(b *testing.B) { benchSteady(b, 10*million, tenMillion) }

func benchSteady(b *testing.B, n int, contenders []contender) {
	forEach(b, n, contenders, func(b *testing.B, c contender, deadlines []int64) {
		var s *steady
		b.Run(c.name, func(b *testing.B) {
			if s == nil {
				s = newSteady(c.make(n), deadlines)
				for s.now < benchWindow { // once round, so that the free list is as shuffled as it gets
					s.turn()
				}
			}
			b.ReportAllocs()
			b.ResetTimer()
			for done := 0; done < b.N; {
				done += s.turn()
			}
		})
	})
}

// steady is a scheduler with as many entries pending as there are deadlines.
type steady struct {
	scheduler
	deadlines []int64
	now       int64
	next      int // of deadlines
}

func newSteady(s scheduler, deadlines []int64) *steady {
	fill(s, deadlines)
	return &steady{scheduler: s, deadlines: deadlines}
}

// turn advances by a millisecond, and returns how many entries it replaced.
func (s *steady) turn() (replaced int) {
	s.now += millisecond
	s.advance(s.now)
	for s.size() < len(s.deadlines) {
		s.schedule(s.next, s.now+s.deadlines[s.next])
		s.next = (s.next + 1) % len(s.deadlines)
		replaced++
	}
	return replaced
}

// BenchmarkCancel cancels n entries in the order they were scheduled, which is a random
// order for the slots and for the heap.
func BenchmarkCancel(b *testing.B) {
	benchCancel(b, million, allWith(runtimeContender))
}
func BenchmarkCancel10M(b *testing.B) { benchCancel(b, 10*million, tenMillion) }

func benchCancel(b *testing.B, n int, contenders []contender) {
	forEach(b, n, contenders, func(b *testing.B, c contender, deadlines []int64) {
		var s scheduler
		left := 0
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				if left == 0 {
					b.StopTimer()
					s, left = c.make(n), n
					fill(s, deadlines)
					b.StartTimer()
				}
				s.cancel(n - left)
				left--
			}
		})
		if s != nil {
			stop(s, n)
		}
	})
}

// BenchmarkBytes says how many bytes of the heap an entry holds on to.
func BenchmarkBytes(b *testing.B) {
	forEach(b, million, allWith(runtimeContender), func(b *testing.B, c contender, deadlines []int64) {
		var each float64
		b.Run(c.name, func(b *testing.B) {
			if each == 0 {
				s := c.make(million)
				before := heapBytes()
				fill(s, deadlines)
				each = float64(heapBytes()-before) / million
				stop(s, million)
				runtime.KeepAlive(s)
			}
			b.ReportMetric(each, "B/entry")
			b.ReportMetric(0, "ns/op")
		})
	})
}

// heapBytes is what the heap holds that is in use.
func heapBytes() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
