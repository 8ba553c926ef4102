package reactor

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/alarm"

	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/load"
)

// testDispatcher is a dispatcher that the test drives step by step.
type testDispatcher struct {
	*dispatcher
	gone []driver.Cursor // evicted, as due later
	past []driver.Cursor // evicted, as due by then
}

func newTestDispatcher(t testing.TB, capacity int) *testDispatcher {
	t.Helper()
	wake, err := alarm.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { wake.Close() })
	d := &testDispatcher{dispatcher: &dispatcher{clock: newClock(discard()), lead: newLead(), largeLead: newLead(), pending: new(atomic.Int64), firstDue: new(atomic.Int64), ahead: new(ahead), rows: maxClaim, capacity: capacity, overdue: time.Second, wake: wake}}
	d.loader = d
	d.reset()
	return d
}

// Roomy and the next four implement refiller.
func (d *testDispatcher) Roomy()                {}
func (d *testDispatcher) Rescan()               {}
func (d *testDispatcher) Owes() bool            { return false }
func (d *testDispatcher) Paid() <-chan struct{} { return nil }
func (d *testDispatcher) Evicted(overdue, ahead []driver.Cursor, _ driver.DBTime) {
	d.past, d.gone = append(d.past, overdue...), append(d.gone, ahead...)
}

// handOver takes the batch on offer, as a lane does.
func (d *testDispatcher) handOver() due {
	batch := d.next
	d.next = due{}
	return batch
}

// TestClaimBytes: a claim has 8 MB at most, give or take a small payload, or is of a single job; and
// no small job is in one of large payloads.
func TestClaimBytes(t *testing.T) {
	const large = 12 << 20
	sizes := map[string]func(i int) int32{
		"behind a small one": func(i int) int32 { return []int32{100, large}[min(i, 1)] },
		"now and then":       func(i int) int32 { return []int32{100, large}[(i+1)/40%2] },
		"growing":            func(i int) int32 { return int32(1) << min(i, 23) },
		"medium":             func(int) int32 { return 100_000 },
		"nothing":            func(int) int32 { return 0 },
	}
	for name, size := range sizes {
		t.Run(name, func(t *testing.T) {
			d := newTestDispatcher(t, 1<<18)
			now := d.clock.Now()
			rows := make([]driver.Pending, 2000)
			for i := range rows {
				rows[i] = driver.Pending{ID: int64(i), DueAt: now, Bytes: size(i)}
			}
			d.add(load.Read{Rows: rows})
			taken := 0
			for d.waiting.Load() > 0 {
				d.collect()
				some := false
				for _, batch := range []due{d.next, d.overdueNext, d.largeNext} {
					bytes, most := 0, 0
					for _, id := range batch.ids {
						bytes += int(size(int(id)))
						most = max(most, int(size(int(id))))
					}
					switch {
					case bytes != batch.bytes || bytes > max(maxClaimBytes+largePayload, most):
						t.Fatalf("a claim of %d jobs and %d bytes, counted as %d", len(batch.ids), bytes, batch.bytes)
					case batch.large != (most >= largePayload):
						t.Fatalf("a claim with a payload of %d bytes: %+v", most, batch)
					}
					some = some || len(batch.ids) > 0
					taken += len(batch.ids)
				}
				if !some {
					t.Fatal("nothing was handed out")
				}
				d.next, d.overdueNext, d.largeNext = due{}, due{}, due{}
				d.counted()
			}
			if taken != len(rows) {
				t.Errorf("%d of %d jobs were handed out", taken, len(rows))
			}
		})
	}
}

// TestEviction: full memory keeps the jobs that are due first, and tells the loader for each
// shard from where it has to read the missing ones.
func TestEviction(t *testing.T) {
	const capacity = 1024
	d := newTestDispatcher(t, capacity)
	r := rand.New(rand.NewPCG(7, 7))
	now := d.clock.Now()
	var all []driver.Pending
	for id := range int64(10 * capacity) {
		all = append(all, driver.Pending{ID: id, Shard: uint8(r.IntN(driver.Shards)), DueAt: now.Add(time.Minute + time.Duration(r.Int64N(int64(30*time.Second))))})
	}
	for page := range slices.Chunk(all, 300) {
		d.add(load.Read{Rows: page})
		if n := d.near.len(); n > capacity || len(d.near.known) != n || d.Room() != capacity-n {
			t.Fatalf("%d in the wheel, %d known, %d counted", n, len(d.near.known), capacity-d.Room())
		}
	}
	slices.SortFunc(all, func(a, b driver.Pending) int {
		return cmp.Or(cmp.Compare(a.DueAt, b.DueAt), cmp.Compare(a.ID, b.ID))
	})
	for i, job := range all {
		_, known := d.near.known[job.ID]
		covered := slices.ContainsFunc(d.gone, func(c driver.Cursor) bool {
			return c.Shard == job.Shard && c.Before(driver.Cursor{AfterAt: job.DueAt, AfterID: job.ID})
		})
		switch {
		case !known && !covered:
			t.Fatalf("job %d is not in memory, and will not be read again", job.ID)
		case !known && i < capacity*3/4:
			t.Fatalf("the %d-th job to be due was evicted", i)
		}
	}
	if oldest := d.OldestDue(); oldest != nothingDue {
		t.Errorf("OldestDue is %v before the first collect", oldest)
	}
	// An urgent job gets room, and evicted jobs count as new when they are loaded again.
	urgent := driver.Pending{ID: -1, DueAt: now}
	d.add(load.Read{Rows: []driver.Pending{urgent}})
	d.collect()
	if batch := d.handOver(); !slices.Equal(batch.ids, []int64{-1}) || batch.earliest != now || batch.latest != now {
		t.Errorf("handed out %+v", batch)
	}
	before := d.LatestDue()
	d.add(load.Read{Rows: all[:capacity]})
	if d.near.len() < capacity*9/10 || d.LatestDue() > before.Add(time.Second) {
		t.Errorf("%d in the wheel, the latest due at %v", d.near.len(), d.LatestDue())
	}
}

// TestOldestDue is the earliest job that nobody has claimed, on offer or in the wheel.
func TestOldestDue(t *testing.T) {
	d := newTestDispatcher(t, 1024)
	d.collect()
	if at := d.OldestDue(); at != nothingDue {
		t.Errorf("empty: %v", at)
	}
	now := d.clock.Now()
	for i, offset := range []time.Duration{-time.Second / 2, -time.Minute, time.Hour} {
		d.add(load.Read{Rows: []driver.Pending{{ID: int64(i), DueAt: now.Add(offset)}}})
	}
	d.collect()
	if at := d.OldestDue(); at != now.Add(-time.Minute) {
		t.Errorf("on offer: %v", at.Sub(now))
	}
	if batch := d.handOver(); !slices.Equal(batch.ids, []int64{0}) || batch.bulk {
		t.Errorf("handed out %+v", batch)
	}
	if batch := d.overdueNext; !slices.Equal(batch.ids, []int64{1}) || !batch.bulk {
		t.Errorf("as backlog %+v", batch)
	}
	d.overdueNext = due{}
	d.collect()
	if at := d.OldestDue(); at <= now || at > now.Add(time.Hour+wheelResolution) {
		t.Errorf("in an hour: %v", at.Sub(now))
	}
}

// TestClaimsSayWhenJobsFire: the range of a batch begins at or before the fire_at of each of its jobs,
// also where jobs are tried again and are due much later than that.
func TestClaimsSayWhenJobsFire(t *testing.T) {
	const at = driver.DBTime(1e15)
	for _, early := range []time.Duration{0, time.Microsecond, time.Minute, time.Minute + 1000, 40 * 24 * time.Hour, 45*24*time.Hour + 12*time.Hour, 100 * 24 * time.Hour, 1 << 62} {
		job := driver.Pending{DueAt: at, FireAt: at.Add(-early)}
		if early == 1<<62 {
			job.FireAt = driver.DistantPast
		}
		kept := scheduled{early: minutesEarly(job)}
		from := kept.fireAt(at)
		if from > job.FireAt || early < 40*24*time.Hour && job.FireAt.Sub(from) > time.Minute {
			t.Errorf("%v before it is due: from %v before that", early, at.Sub(from))
		}
	}
	var b due
	b.take(scheduled{}, at)
	b.take(scheduled{early: 5}, at.Add(time.Second))
	b.take(scheduled{}, at.Add(2*time.Second))
	if want := at.Add(time.Second - 5*time.Minute); b.from != want || b.earliest != at || b.latest != at.Add(2*time.Second) {
		t.Errorf("the batch is from %v, %v to %v", b.from, b.earliest, b.latest)
	}
}
