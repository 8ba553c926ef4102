package reactor

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/load"
)

// TestAhead: whatever comes, is rescheduled, is handed over and is evicted, the counts are those of what waits.
func TestAhead(t *testing.T) {
	const capacity = 4096
	d := newTestDispatcher(t, capacity)
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		now := d.clock.Now()
		var rows []driver.Pending
		for range random.IntN(200) {
			due := now.Add(time.Duration(random.IntN(30_000)-500) * time.Millisecond)
			if random.IntN(10) == 0 {
				due = now.Add(-time.Duration(random.IntN(3_600_000)) * time.Millisecond)
			}
			bytes := int32(100)
			if random.IntN(10) == 0 {
				bytes = largePayload + random.Int32N(maxClaimBytes/2)
			}
			rows = append(rows, driver.Pending{ID: int64(random.IntN(5000)), DueAt: due, FireAt: due, Bytes: bytes, Shard: uint8(random.IntN(driver.Shards))})
		}
		d.add(load.Read{Rows: rows})
		if random.IntN(3) == 0 {
			d.collect()
			for _, batch := range []*due{&d.next, &d.overdueNext, &d.largeNext} {
				d.forget(finished{ids: batch.ids})
				d.handedOver(batch)
			}
		}
		// Directly, by walking through the wheels.
		want := map[uint64]int64{}
		for _, l := range []*line{&d.near, &d.large} {
			for _, handle := range l.known {
				at, _ := l.wheel.Deadline(handle)
				want[secondOf(at)]++
			}
		}
		if d.held != nil && !d.held.overdue {
			want[secondOf(int64(d.held.at))]++
		}
		overdue := int64(d.ahead.overdue.Load())
		sum := int64(0)
		for i := range d.ahead.seconds {
			sum += int64(d.ahead.seconds[i].Load())
		}
		held := 0
		if d.held != nil {
			held = 1
		}
		if total := int64(d.near.len() + d.large.len() + held); sum+overdue != total {
			t.Fatalf("round %d: %d and %d overdue are counted of %d", round, sum, overdue, total)
		}
		now = d.clock.Now()
		seen := d.ahead.at(now, d.pending.Load())
		for i, n := range seen.Seconds[5:] { // before that are those of large that were overdue
			if second := secondOf(int64(now)) + uint64(i+5); n != want[second] {
				t.Fatalf("round %d: %d jobs are due in %d s, want %d", round, n, i+5, want[second])
			}
		}
		if random.IntN(50) == 0 {
			d.reset()
		}
	}
	if secondOf(999_999) != secondOf(0) || secondOf(1_000_000) != secondOf(0)+1 || secondOf(-1) != secondOf(0)-1 {
		t.Error("seconds do not begin where seconds begin")
	}
}

// BenchmarkAhead is what it costs that each job is counted when it comes and when it goes, beside the wheel that it goes
// through, and what it costs to look.
func BenchmarkAhead(b *testing.B) {
	for name, counts := range map[string]*ahead{"counted": new(ahead), "not counted": nil} {
		b.Run(name, func(b *testing.B) {
			d := newTestDispatcher(b, 1<<20)
			l := newLine(d.near.begin, counts)
			now := int64(d.clock.Now())
			for b.Loop() {
				for i := range int64(1000) {
					l.schedule(scheduled{id: i}, now+i*7919)
				}
				now += 10_000_000
				l.wheel.Advance(now, 1000, l.gone)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/job")
		})
	}
	b.Run("look", func(b *testing.B) {
		counts := new(ahead)
		for b.Loop() {
			counts.at(1_764_446_400_000_000, 1000)
		}
	})
}
