package reactor

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/load"
)

// What is due now comes before what is overdue and before large payloads.

// jobs are rows that are due in so long, of so many bytes each.
func (d *dispatch) jobs(dueIn time.Duration, bytes int32, ids ...int64) {
	rows := make([]driver.Pending, len(ids))
	for i, id := range ids {
		rows[i] = driver.Pending{ID: id, DueAt: d.clock.Now().Add(dueIn), Bytes: bytes}
	}
	d.in <- load.Read{Rows: rows}
}

// TestUrgentBesideBacklog: overdue jobs are offered as bulk, and what is due now by itself, at once,
// however many there are of them.
func TestUrgentBesideBacklog(t *testing.T) {
	dispatched(t, func(d *dispatch) {
		for i := range int64(7) {
			d.jobs(-time.Minute+time.Duration(i)*time.Second, 10, count(1000-100*i, 100)...)
		}
		d.jobs(0, 10, 1)
		if batch := <-d.out; !slices.Equal(batch.ids, []int64{1}) || batch.bulk {
			d.Errorf("urgent is %+v", batch)
		}
		synctest.Wait()
		if d.Backlog() != 700 || d.Room() != 1024-700 || !d.Behind() {
			d.Errorf("a backlog of %d, room for %d, behind: %v", d.Backlog(), d.Room(), d.Behind())
		}
		// In order of fire_at, whatever their ids and the order of loading.
		d.jobs(-time.Hour, 10, 5)
		var got []int64
		for range 8 {
			batch := <-d.bulk
			if !batch.bulk || batch.large {
				d.Errorf("of the backlog is %+v", batch)
			}
			got = append(got, batch.ids...)
			synctest.Wait()
		}
		// The first batch was on offer before the last row came.
		if want := slices.Concat(count(1000, 100), []int64{5}, count(900, 99)); len(got) != 701 || !slices.Equal(got[:200], want) {
			d.Errorf("%d jobs, beginning with %v", len(got), got[:min(len(got), 200)])
		}
		if d.Backlog() != 0 || d.roomy.Load() == 0 {
			d.Errorf("a backlog of %d; the loader was told %d times", d.Backlog(), d.roomy.Load())
		}
	})
}

// TestBurstDoesNotHoldUpWhatFollows: more falls due at one instant than anybody takes. After a moment
// the rest of it waits its turn as backlog, but for the last ones, and what is due then is next.
func TestBurstDoesNotHoldUpWhatFollows(t *testing.T) {
	dispatched(t, func(d *dispatch) {
		d.jobs(time.Second, 10, count(1, 900)...)
		d.jobs(1500*time.Millisecond, 10, 1000)
		first := <-d.out
		<-d.out
		time.Sleep(leftBehind / 2)
		synctest.Wait()
		if len(first.ids) != 100 || d.Backlog() != 0 {
			d.Errorf("a batch of %d, and a backlog of %d already", len(first.ids), d.Backlog())
		}
		time.Sleep(2 * leftBehind)
		synctest.Wait()
		if d.Backlog() != 500 {
			d.Errorf("a backlog of %d, want all but what was taken, the batch on offer, and another one", d.Backlog())
		}
		<-d.out
		if batch := <-d.out; !slices.Equal(batch.ids, count(801, 100)) {
			d.Errorf("then %v", batch.ids)
		}
		time.Sleep(500 * time.Millisecond)
		if batch := <-d.out; !slices.Equal(batch.ids, []int64{1000}) {
			d.Errorf("then %v", batch.ids)
		}
		for range 5 {
			<-d.bulk
		}
		synctest.Wait()
		if d.Backlog() != 0 || d.Room() != 1024 {
			d.Errorf("left is a backlog of %d, room for %d", d.Backlog(), d.Room())
		}
	})
}

// TestAnyoneTakesWhatNobodyTook: an urgent batch is for lanes without bulk, and after a few
// milliseconds for all.
func TestAnyoneTakesWhatNobodyTook(t *testing.T) {
	dispatched(t, func(d *dispatch) {
		d.jobs(0, 10, 1)
		synctest.Wait()
		select {
		case batch := <-d.anyone:
			d.Errorf("at once %v", batch.ids)
		default:
		}
		begun := time.Now()
		if batch := <-d.anyone; !slices.Equal(batch.ids, []int64{1}) {
			d.Errorf("then %v", batch.ids)
		}
		if took := time.Since(begun); took > d.lead.get() {
			d.Errorf("after %v", took)
		}
	})
}

// TestLargeBatches: large payloads are in batches of their own, of 8 MB at most or a single one, and
// on offer only if the budget allows.
func TestLargeBatches(t *testing.T) {
	dispatched(t, func(d *dispatch) {
		d.jobs(0, 100, 1)
		d.jobs(0, 3<<20, 2, 3, 4, 5)
		d.jobs(0, 12<<20, 6, 7)
		d.jobs(0, 200<<20, 8)
		if batch := <-d.out; !slices.Equal(batch.ids, []int64{1}) {
			d.Errorf("urgent is %v", batch.ids)
		}
		var held []due
		for _, want := range [][]int64{{2, 3}, {4, 5}, {6}} {
			batch := <-d.bulk
			if !slices.Equal(batch.ids, want) || !batch.large || batch.reserved != batch.bytes {
				d.Errorf("%+v, want %v", batch, want)
			}
			held = append(held, batch)
		}
		d.jobs(0, 100, 9)
		if batch := <-d.out; !slices.Equal(batch.ids, []int64{9}) {
			d.Errorf("beside large payloads: %v", batch.ids)
		}
		none := func(when string) {
			d.Helper()
			synctest.Wait()
			select {
			case batch := <-d.bulk:
				d.Errorf("%s: %v is handed out", when, batch.ids)
			default:
			}
		}
		none("24 MB are held")
		d.budget.release(held[0])
		none("18 MB are held")
		d.budget.release(held[1])
		batch := <-d.bulk
		if !slices.Equal(batch.ids, []int64{7}) {
			d.Errorf("with room, %v", batch.ids)
		}
		d.budget.release(held[2])
		none("12 MB are held, and 200 are wanted")
		d.budget.release(batch)
		if batch := <-d.bulk; !slices.Equal(batch.ids, []int64{8}) {
			d.Errorf("alone, %v", batch.ids)
		}
	})
}

// TestBacklogIsEvictedFirst: what comes into full memory takes the place of the latest of the backlog,
// down to its share, and then of what is due last.
func TestBacklogIsEvictedFirst(t *testing.T) {
	const capacity = 1024
	d := newTestDispatcher(t, capacity)
	now := d.clock.Now()
	rows := func(n int, from int64, at driver.DBTime) []driver.Pending {
		list := make([]driver.Pending, n)
		for i := range list {
			list[i] = driver.Pending{ID: from + int64(i), DueAt: at.Add(time.Duration(i) * time.Millisecond)}
		}
		return list
	}
	d.add(load.Read{Rows: rows(900, 1, now.Add(-time.Hour))})
	d.add(load.Read{Rows: rows(500, 10_000, now.Add(time.Minute))})
	if d.near.len() != 500 || d.Room() < 0 || len(d.past) == 0 || len(d.gone) != 0 {
		t.Fatalf("%d of what is due later, %d of the backlog, %d and %d evicted", d.near.len(), d.backlog.len(), len(d.past), len(d.gone))
	}
	if _, latest := d.backlog.known[900]; latest {
		t.Error("the latest of the backlog is there")
	}
	if _, first := d.backlog.known[1]; !first {
		t.Error("the first of the backlog is not there")
	}
	d.add(load.Read{Rows: rows(500, 20_000, now.Add(30*time.Second))})
	if share := load.BacklogShare(capacity); d.Backlog() > share || d.Backlog() < share-1 || len(d.gone) == 0 {
		t.Errorf("a backlog of %d, its share is %d; %d evicted of what is due later", d.Backlog(), share, len(d.gone))
	}
	for id := range int64(500) {
		if _, known := d.near.known[20_000+id]; !known {
			t.Fatal("something is not there that is due before the rest")
		}
	}
	// And the other way round: overdue rows get their share of a memory that is full of others.
	d = newTestDispatcher(t, capacity)
	d.add(load.Read{Rows: rows(capacity, 1, now.Add(time.Minute))})
	d.add(load.Read{Rows: rows(200, 10_000, now.Add(-time.Hour))})
	if d.Backlog() != 200 || d.Room() < 0 || len(d.past) != 0 {
		t.Errorf("a backlog of %d, room for %d", d.Backlog(), d.Room())
	}
}

// TestOverdueAfter: what a sweep finds within its loop is not backlog yet.
func TestOverdueAfter(t *testing.T) {
	for loop, want := range map[time.Duration]time.Duration{
		time.Millisecond: leastOverdue, 2 * time.Second: 3 * time.Second, time.Hour: mostOverdue,
	} {
		if got := overdueAfter(loop); got != want {
			t.Errorf("with a loop of %v: %v, want %v", loop, got, want)
		}
	}
}

// TestTraffic: one lane that can send is left without a permit for bulk, and it is another one when
// that cannot any more.
func TestTraffic(t *testing.T) {
	var tr traffic
	woken := map[*claimer]int{}
	lanes := make([]*claimer, 3)
	for i := range lanes {
		c := &claimer{}
		c.wake = func() { woken[c]++ }
		lanes[i] = c
		tr.enter(c)
	}
	a, b, c := lanes[0], lanes[1], lanes[2]
	if p := tr.ask(a, true, false); p != (permit{bulk: true, alone: true}) {
		t.Errorf("the first lane: %+v", p)
	}
	ask := func(c *claimer, able, holds bool, want permit) {
		t.Helper()
		if p := tr.ask(c, able, holds); p != want {
			t.Errorf("%+v, want %+v", p, want)
		}
	}
	ask(b, true, false, permit{})
	ask(c, true, false, permit{bulk: true})
	ask(a, true, true, permit{bulk: true})
	ask(b, true, false, permit{})
	clear(woken)
	ask(b, false, false, permit{})
	if woken[a] == 0 || woken[c] == 0 {
		t.Errorf("the others are not told that a lane is gone: %v", woken)
	}
	ask(a, true, true, permit{bulk: true}) // it holds some
	ask(c, true, false, permit{})
	ask(a, true, true, permit{bulk: true})
	ask(b, true, false, permit{bulk: true})
	ask(c, true, false, permit{})
	tr.leave(a)
	tr.leave(c)
	ask(b, true, false, permit{bulk: true, alone: true})
}

// TestClaimerTakesWhatItMay: a lane that holds bulk takes nothing that is due now, unless nobody else
// has; one without a permit takes no bulk.
func TestClaimerTakesWhatItMay(t *testing.T) {
	claimed(t, &fakeJournal{}, func(c *claiming) {
		synctest.Wait() // it has its permit
		other := &claimer{}
		c.traffic.enter(other)
		c.traffic.ask(other, true, false) // there is a lane without a permit
		c.capacity.Set()
		offer := func(to chan due, batch due) bool {
			synctest.Wait()
			select {
			case to <- batch:
				<-c.finished
				return true
			default:
				return false
			}
		}
		if !offer(c.due, due{ids: []int64{1}}) || !offer(c.bulk, due{ids: []int64{2}, bulk: true}) {
			c.Error("a free lane with a permit does not take both")
		}
		c.lane.burden.Store(true)
		c.capacity.Set()
		if !offer(c.bulk, due{ids: []int64{3}, bulk: true}) {
			c.Error("no more bulk is taken")
		}
		if offer(c.due, due{ids: []int64{4}}) {
			c.Error("a lane that holds bulk takes what is due now")
		}
		if !offer(c.anyone, due{ids: []int64{5}}) {
			c.Error("nor what nobody else has taken")
		}
		c.lane.burden.Store(false)
		c.capacity.Set()
		if !offer(c.due, due{ids: []int64{6}}) {
			c.Error("what is due now is not taken any more")
		}
		// The other lane has the permit now.
		c.lane.unable.Store(true)
		c.capacity.Set()
		synctest.Wait()
		c.traffic.ask(other, true, false)
		c.lane.unable.Store(false)
		c.capacity.Set()
		if offer(c.bulk, due{ids: []int64{7}, bulk: true}) {
			c.Error("bulk is taken without a permit")
		}
	})
}

// TestLeadOfLargePayloads: claims of large payloads take long, and do not make the lead of others
// longer; nor do claims of the backlog.
func TestLeadOfLargePayloads(t *testing.T) {
	slow := &fakeJournal{claim: func(ctx context.Context, req driver.ClaimRequest) (driver.Batch, error) {
		time.Sleep(80 * time.Millisecond)
		return claimAll(req), nil
	}}
	claimed(t, slow, func(c *claiming) {
		before := c.lead.get()
		for id := range int64(20) {
			c.bulk <- due{ids: []int64{id}, bulk: true, large: id%2 == 0}
			<-c.finished
		}
		if c.lead.get() != before || c.largeLead.get() < 80*time.Millisecond {
			c.Errorf("the lead is %v, was %v, and %v for large payloads", c.lead.get(), before, c.largeLead.get())
		}
	})
}

// TestBulkLeavesRoom: a lane that holds all that bulk may have, and has lost its connection, does not
// keep the others from what is due now.
func TestBulkLeavesRoom(t *testing.T) {
	b := newBudget(80, 100)
	held, more, urgent := due{bytes: 70, bulk: true}, due{bytes: 1, bulk: true}, due{bytes: 10}
	if !b.reserve(&held) || b.reserve(&more) || !b.reserve(&urgent) {
		t.Errorf("%+v %+v %+v", held, more, urgent)
	}
}

// TestRecoveryUnderSteadyLoad: what is due now always uses some of the budget, and a lane is to
// recover as much as there is. It finds room when that waits for a second.
func TestRecoveryUnderSteadyLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(100, 100)
		ctx, stop := context.WithCancel(t.Context())
		var served atomic.Int64
		var steady sync.WaitGroup
		for range 3 {
			steady.Go(func() {
				for ctx.Err() == nil {
					batch := due{bytes: 10}
					if b.reserve(&batch) {
						served.Add(1)
						time.Sleep(20 * time.Millisecond)
						b.release(batch)
						continue
					}
					<-b.freed
					b.freed.Set() // for the others
					time.Sleep(time.Millisecond)
				}
			})
			time.Sleep(7 * time.Millisecond) // so that one always holds something
		}
		begun := time.Now()
		release := b.await(t.Context(), 100, 0)
		if took := time.Since(begun); took < yieldAfter || took > yieldAfter+100*time.Millisecond || served.Load() == 0 {
			t.Errorf("it took %v; %d batches were served", took, served.Load())
		}
		release()
		time.Sleep(50 * time.Millisecond)
		before := served.Load()
		// One that finds no room at all delays what is due now by a second, and no longer.
		wait, end := context.WithCancel(t.Context())
		done := make(chan func())
		hold := due{bytes: 50, bulk: true}
		if !b.reserve(&hold) {
			t.Fatal("no room")
		}
		go func() { done <- b.await(wait, 100, 0) }()
		time.Sleep(2*yieldAfter + 100*time.Millisecond)
		if served.Load() == before {
			t.Error("nothing is served any more")
		}
		before = served.Load()
		time.Sleep(5 * yieldAfter)
		if n := served.Load() - before; n < 100 {
			t.Errorf("%d batches were served in %v", n, 5*yieldAfter)
		}
		end()
		<-done
		stop()
		b.freed.Set()
		steady.Wait()
	})
}

// TestRecoveriesComeBeforeBulk: a lane that recovers gets what it needs when others have given it
// back, before new bulk does, also what is on offer; what is due now does not wait for it.
func TestRecoveriesComeBeforeBulk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(100, 100)
		inHand := due{bytes: 80, bulk: true, large: true}
		onOffer := due{bytes: 20, bulk: true, large: true}
		if !b.reserve(&inHand) || !b.reserve(&onOffer) {
			t.Fatal("there is room")
		}
		got := make(chan func())
		go func() { got <- b.await(t.Context(), 10, 90) }()
		synctest.Wait()
		<-b.freed // the dispatcher looks at its offers
		urgent, bulk := due{bytes: 10}, due{bytes: 10, bulk: true}
		if b.reserve(&onOffer) || onOffer.reserved != 0 || b.reserve(&bulk) || !b.reserve(&urgent) {
			t.Errorf("while a lane waits: %+v %+v %+v", onOffer, bulk, urgent)
		}
		select {
		case <-got:
			t.Fatal("more than there is")
		default:
		}
		b.release(inHand)
		release := <-got
		if b.large.used != 90 || b.small.used != 20 {
			t.Errorf("used are %d and %d", b.large.used, b.small.used)
		}
		release()
		if !b.reserve(&onOffer) {
			t.Error("nothing is left")
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { got <- b.await(ctx, 0, 1000) }()
		synctest.Wait()
		cancel()
		if release := <-got; release != nil || b.recovering != 0 {
			t.Error("it has what it did not wait for")
		}
	})
}
