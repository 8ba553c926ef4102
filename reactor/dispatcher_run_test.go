package reactor

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/load"
)

// Tests of a running dispatcher, in synthetic time.

// dispatch is a running dispatcher with its fakes.
type dispatch struct {
	*testing.T
	*dispatcher
	in     chan load.Read
	out    chan due // urgent
	anyone chan due
	bulk   chan due
	ended  chan finished
	drain  chan struct{}
	done   chan struct{} // closed when it has ended
	roomy  atomic.Int32
	rescan atomic.Int32
	owes   atomic.Bool
	paid   chan struct{}
}

// Roomy and the next four implement refiller.
func (d *dispatch) Roomy()                                                  { d.roomy.Add(1) }
func (d *dispatch) Rescan()                                                 { d.rescan.Add(1) }
func (d *dispatch) Evicted(overdue, ahead []driver.Cursor, _ driver.DBTime) {}
func (d *dispatch) Owes() bool                                              { return d.owes.Load() }
func (d *dispatch) Paid() <-chan struct{}                                   { return d.paid }

func dispatched(t *testing.T, test func(d *dispatch)) {
	synctest.Test(t, func(t *testing.T) {
		d := &dispatch{T: t, in: make(chan load.Read), out: make(chan due), anyone: make(chan due), bulk: make(chan due), ended: make(chan finished), drain: make(chan struct{}), paid: make(chan struct{}), done: make(chan struct{})}
		d.dispatcher = &dispatcher{
			clock: testClock(), lead: newLead(), largeLead: newLead(), loader: d, newAlarm: newTimerWaker,
			loaded: d.in, urgent: d.out, anyone: d.anyone, bulk: d.bulk, finished: d.ended,
			rows: 100, capacity: 1024, overdue: time.Second, budget: newBudget(smallBudget, largeBudget), pending: new(atomic.Int64), firstDue: new(atomic.Int64),
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			defer close(d.done)
			if err := d.run(ctx, d.drain); err != nil {
				t.Error(err)
			}
		}()
		test(d)
		cancel()
		<-d.done
	})
}

// load gives the dispatcher jobs with these ids, due after d.
func (d *dispatch) load(dueIn time.Duration, ids ...int64) {
	rows := make([]driver.Pending, len(ids))
	for i, id := range ids {
		rows[i] = driver.Pending{ID: id, DueAt: d.clock.Now().Add(dueIn), Bytes: 10}
	}
	d.in <- load.Read{Rows: rows}
}

// nothing checks that no batch is on offer.
func (d *dispatch) nothing(when string) {
	d.Helper()
	synctest.Wait()
	select {
	case batch := <-d.out:
		d.Errorf("%s: %v is handed out", when, batch.ids)
	default:
	}
}

func count(from, n int64) []int64 {
	ids := make([]int64, n)
	for i := range ids {
		ids[i] = from + int64(i)
	}
	return ids
}

// TestDispatchInTime: jobs are handed out a lead before they are due, give or take the wheel's
// resolution, together with the jobs that fall due during the next lead.
func TestDispatchInTime(t *testing.T) {
	dispatched(t, func(d *dispatch) {
		lead, begun := d.lead.get(), d.clock.Now()
		d.load(3*time.Second, 3)
		d.load(time.Second, 1)
		d.load(time.Second+lead/2, 2)
		batch := <-d.out
		slices.Sort(batch.ids)
		at := d.clock.Now().Sub(begun)
		if !slices.Equal(batch.ids, []int64{1, 2}) || batch.earliest != begun.Add(time.Second) || batch.latest != begun.Add(time.Second+lead/2) {
			d.Errorf("handed out %+v", batch)
		}
		if early := time.Second - at; early > lead+4*wheelResolution || early < lead-4*wheelResolution {
			d.Errorf("handed out %v before it is due, want %v", early, lead)
		}
		time.Sleep(time.Second)
		d.nothing("a second before the next is due")
		if batch := <-d.out; !slices.Equal(batch.ids, []int64{3}) {
			d.Errorf("then %+v", batch)
		}
	})
}

// TestBatchGrowsUntilTaken: while no lane takes it, the batch on offer grows up to its limit.
// If that batch has long been due, the dispatcher is behind.
func TestBatchGrowsUntilTaken(t *testing.T) {
	dispatched(t, func(d *dispatch) {
		for i := range int64(15) {
			d.load(0, count(10*i, 10)...)
		}
		synctest.Wait()
		if d.Behind() {
			d.Error("behind, though the batch has only just fallen due")
		}
		time.Sleep(2 * lateBatch)
		d.load(time.Hour, 1000) // a load makes the dispatcher check
		synctest.Wait()
		if !d.Behind() || d.Room() != 1024-151 {
			d.Errorf("behind: %v, room for %d", d.Behind(), d.Room())
		}
		if first, second := <-d.out, <-d.out; len(first.ids) != 100 || len(second.ids) != 50 {
			d.Errorf("batches of %d and %d", len(first.ids), len(second.ids))
		}
		synctest.Wait()
		if d.Behind() || d.Room() != 1023 || d.pending.Load() != 1 {
			d.Errorf("behind: %v, room for %d, pending %d", d.Behind(), d.Room(), d.pending.Load())
		}
		d.pending.Store(12345) // a statistic: no decision depends on it
		if d.Room() != 1023 {
			d.Errorf("room for %d", d.Room())
		}
	})
}

// TestJobsAreKnown: a job in the wheel, on offer or being claimed is not handed out a second
// time if it is loaded again. Once its claim has ended it may be. A rescheduled job is moved.
func TestJobsAreKnown(t *testing.T) {
	dispatched(t, func(d *dispatch) {
		d.load(0, 1, 2)
		d.load(0, 1, 2)
		if batch := <-d.out; len(batch.ids) != 2 {
			d.Errorf("handed out %v", batch.ids)
		}
		d.load(0, 1, 2)
		d.nothing("being claimed")
		d.ended <- finished{ids: []int64{1, 2}}
		d.load(0, 2)
		if batch := <-d.out; !slices.Equal(batch.ids, []int64{2}) {
			d.Errorf("handed out %v", batch.ids)
		}
		d.load(time.Hour, 5)
		d.load(time.Second, 5)
		d.load(time.Second, 6)
		d.load(time.Hour, 6)
		time.Sleep(time.Minute)
		if batch := <-d.out; !slices.Equal(batch.ids, []int64{5}) {
			d.Errorf("rescheduled, handed out %v", batch.ids)
		}
		d.nothing("a job that was postponed")
	})
}

// TestDrain: when no more jobs are loaded, the dispatcher ends, but not before all claims have
// ended, and what they did not get was looked at again.
func TestDrain(t *testing.T) {
	dispatched(t, func(d *dispatch) {
		d.load(time.Second, 1)
		close(d.drain)
		batch := <-d.out
		time.Sleep(time.Minute)
		select {
		case <-d.done:
			d.Error("the dispatcher has ended while a job is being claimed")
		default:
		}
		d.owes.Store(true)
		d.ended <- finished{ids: batch.ids}
		time.Sleep(time.Minute)
		d.load(0, 1)
		batch = <-d.out
		d.ended <- finished{ids: batch.ids}
		time.Sleep(time.Minute)
		select {
		case <-d.done:
			d.Error("the dispatcher has ended while a job is to be looked at again")
		default:
		}
		d.owes.Store(false)
		d.paid <- struct{}{}
		<-d.done
	})
}

// TestRoomyIsSaid: the loader is told once, when a quarter of a full wheel is free.
func TestRoomyIsSaid(t *testing.T) {
	dispatched(t, func(d *dispatch) {
		d.load(0, count(0, 1024)...)
		for i := 1; i <= 5; i++ {
			<-d.out
			synctest.Wait()
			if want := int32(i / 3); d.roomy.Load() != min(want, 1) {
				d.Errorf("after %d batches Roomy was called %d times", i, d.roomy.Load())
			}
		}
	})
}

// TestDispatcherBeginsAnew when the database's clock goes back: the wheel is emptied, and the
// batch on offer stays known.
func TestDispatcherBeginsAnew(t *testing.T) {
	dispatched(t, func(d *dispatch) {
		d.load(0, 1)
		d.load(time.Minute, 2)
		testSet(d.clock, -time.Hour)
		synctest.Wait()
		if d.rescan.Load() != 1 || d.Room() != 1023 {
			d.Errorf("read anew: %d times, room for %d", d.rescan.Load(), d.Room())
		}
		d.load(0, 1, 3)
		batch := <-d.out
		if slices.Sort(batch.ids); !slices.Equal(batch.ids, []int64{1, 3}) {
			d.Errorf("handed out %v", batch.ids)
		}
		// A step forward makes what is in the wheel due.
		d.load(time.Hour, 4)
		synctest.Wait()
		testSet(d.clock, 2*time.Hour)
		synctest.Wait()
		if batch := <-d.out; !slices.Equal(batch.ids, []int64{4}) || d.rescan.Load() != 1 {
			d.Errorf("handed out %v", batch.ids)
		}
	})
}
