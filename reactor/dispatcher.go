package reactor

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"github.com/job-publisher/reactor/timerwheel"

	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/load"
)

// dispatcher owns the timer wheel. It takes the jobs that the loader reads, waits until a lead
// before they fall due, and hands them in batches to whichever lane is free.
//
// A batch that no lane takes yet keeps growing up to its limit. So batches form under load, and
// without load no job waits for others.
//
// The wheel is a cache of the table in the order of due times. When it is full, the jobs that
// are due last are evicted in favour of jobs that are due earlier, and the loader is told from
// where each shard has to be read again. A simpler dispatcher that refuses jobs when the wheel
// is full was tried: with a wheel full of jobs for the next half minute, a job that was due at
// once waited for all of them.
type dispatcher struct {
	clock    *clock
	lead     *lead
	loader   refiller
	newAlarm func() (waker, error)
	loaded   <-chan []driver.Pending
	due      chan<- due
	finished <-chan []int64 // ids whose claim has ended
	rows     int            // limit of a batch
	capacity int            // limit of the wheel
	pending  *atomic.Int64  // statistic: written here, read by Stats alone

	// Written by run, read by anyone.
	waiting atomic.Int64 // jobs in the wheel and on offer
	late    atomic.Bool  // a full batch is on offer, and long due
	oldest  atomic.Int64 // see OldestDue: nothingDue minus that time; 0: no job is due
	latest  atomic.Int64 // see LatestDue

	// Owned by run.
	wheel *timerwheel.Wheel[scheduled]
	known map[int64]timerwheel.Handle // jobs in the wheel, or being claimed (noHandle)
	next  due
	wake  waker
	steps int64 // steps of the clock that the wheel has taken into account
	// largest is the size of the largest job that has been in the wheel since it was empty.
	largest int
}

// refiller is what the dispatcher needs of the loader: to be told what to read, and when.
type refiller interface {
	// Roomy: there is room again, after the wheel was full (load.ResumeRoom).
	Roomy()
	// Rescan: the wheel was emptied.
	Rescan()
	// Evicted: the jobs behind these places, one place per shard, are not in the wheel any
	// more.
	Evicted(places []driver.Cursor)
}

// scheduled is the part of a Pending that the wheel stores beside the deadline. It is small
// because there may be a million of them.
type scheduled struct {
	id    int64
	bytes int32
	shard uint8
	// early is how many minutes fire_at is before the due time, rounded up: a job that is tried
	// again is due later than its fire_at. It says in which partitions of the table to look.
	early uint16
}

// muchEarlier is the value of scheduled.early for any longer time.
const muchEarlier = math.MaxUint16

func minutesEarly(job driver.Pending) uint16 {
	early := job.DueAt.Sub(job.FireAt)
	if early >= (muchEarlier-1)*time.Minute {
		return muchEarlier
	}
	return uint16((max(early, 0) + time.Minute - 1) / time.Minute)
}

// fireAt returns the job's fire_at or an earlier time, given when it is due.
func (s scheduled) fireAt(due driver.DBTime) driver.DBTime {
	if s.early == muchEarlier {
		return driver.DistantPast
	}
	return due.Add(-time.Duration(s.early) * time.Minute)
}

// due is a batch of jobs to claim.
type due struct {
	ids      []int64
	bytes    int
	earliest driver.DBTime // the first of their due times
	from     driver.DBTime // the first of their fire_at, or earlier
	latest   driver.DBTime // the last of their due times
}

// take adds a job to the batch.
func (b *due) take(job scheduled, at driver.DBTime) {
	if len(b.ids) == 0 {
		b.earliest, b.latest, b.from = at, at, at
	}
	b.ids = append(b.ids, job.id)
	b.bytes += int(job.bytes)
	b.earliest, b.latest, b.from = min(b.earliest, at), max(b.latest, at), min(b.from, job.fireAt(at))
}

// wheelResolution is the width of the wheel's finest slots: far below the lead.
const wheelResolution = 256 * time.Microsecond

// lateBatch is how long a full batch must have been due before Behind reports true.
const lateBatch = 100 * time.Millisecond

// evictedShare is the share of the capacity that is evicted beyond what is needed: selecting
// the latest jobs of the whole wheel costs too much to do it for each new job.
const evictedShare = 64

// noHandle marks a job that has left the wheel and whose claim has not ended.
var noHandle timerwheel.Handle

// Room is how many more jobs the wheel takes. Any goroutine may call it, and the next four
// methods.
func (d *dispatcher) Room() int { return d.capacity - int(d.waiting.Load()) }

// Behind reports whether jobs fall due faster than they are claimed.
func (d *dispatcher) Behind() bool { return d.late.Load() }

// OldestDue is the due time of the earliest job in memory that nobody has claimed or is about
// to claim; nothingDue if there is none. While no job is due yet, the result is not exact, but
// lies in the future.
func (d *dispatcher) OldestDue() driver.DBTime {
	return nothingDue - driver.DBTime(d.oldest.Load()) // both subtractions may overflow, and cancel out
}

// oldestDue implements stage.
func (d *dispatcher) oldestDue() driver.DBTime { return d.OldestDue() }

// LatestDue is an upper bound of the due times in memory. It may be far too late, as it falls
// only when jobs are evicted or none is left.
func (d *dispatcher) LatestDue() driver.DBTime { return driver.DBTime(d.latest.Load()) }

// counted publishes the number of jobs.
func (d *dispatcher) counted() {
	n := int64(d.wheel.Len() + len(d.next.ids))
	d.waiting.Store(n)
	d.pending.Store(n)
}

// run works until ctx ends. When drain is closed, no more jobs are loaded, and run returns once
// the claims of all have ended.
func (d *dispatcher) run(ctx context.Context, drain <-chan struct{}) error {
	wake, err := d.newAlarm()
	if err != nil {
		return err
	}
	defer wake.Close()
	d.wake = wake
	d.reset()
	draining := false
	for {
		step := d.clock.Step()
		d.collect()
		offer := d.due
		if len(d.next.ids) == 0 {
			offer = nil
			if draining && len(d.known) == 0 {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case offer <- d.next:
			full := d.Room() < load.ResumeRoom(d.capacity)
			d.next = due{}
			d.counted()
			if full && d.Room() >= load.ResumeRoom(d.capacity) {
				d.loader.Roomy()
			}
		case rows := <-d.loaded:
			d.forgetFinished() // first, because the rows may include such jobs, to be looked at again
			d.add(rows)
		case ids := <-d.finished:
			d.forget(ids)
		case <-wake.C():
		case <-step:
		case <-drain:
			draining, drain = true, nil
		}
	}
}

// reset begins with an empty wheel at the present time.
func (d *dispatcher) reset() {
	d.steps = d.clock.steps.Load()
	d.wheel = timerwheel.New[scheduled](timerwheel.Config{
		Start:      int64(d.clock.Now()),
		Resolution: int64(wheelResolution / time.Microsecond),
	})
	d.known = make(map[int64]timerwheel.Handle)
	for _, id := range d.next.ids {
		d.known[id] = noHandle
	}
	d.counted()
	d.latest.Store(int64(driver.DistantPast))
}

// add schedules loaded jobs. A job that is known already may have been rescheduled.
func (d *dispatcher) add(rows []driver.Pending) {
	if d.wheel.Len() == 0 {
		d.largest = 0
		d.latest.Store(int64(driver.DistantPast))
	}
	for _, job := range rows {
		handle, known := d.known[job.ID]
		if known {
			if handle == noHandle {
				continue // being claimed; if that fails, it will be looked at again
			}
			if at, ok := d.wheel.Deadline(handle); ok && at == int64(job.DueAt) {
				continue
			}
			d.wheel.Cancel(handle)
		}
		d.known[job.ID] = d.wheel.Schedule(scheduled{job.ID, job.Bytes, job.Shard, minutesEarly(job)}, int64(job.DueAt))
		d.largest = max(d.largest, int(job.Bytes))
		if job.DueAt > d.LatestDue() {
			d.latest.Store(int64(job.DueAt))
		}
	}
	if over := d.wheel.Len() - d.capacity; over > 0 {
		d.evict(over + d.capacity/evictedShare)
	}
	d.counted()
}

// evict removes the n jobs that are due last. They are still in the table, and each shard is
// read again from its earliest evicted job.
func (d *dispatcher) evict(n int) {
	var places [driver.Shards]driver.Cursor
	var shards driver.ShardSet
	latest := nothingDue
	d.wheel.EvictLatest(n, func(job scheduled, at int64) {
		delete(d.known, job.id)
		place := load.CursorBefore(job.shard, driver.DBTime(at), job.id)
		if !shards.Has(job.shard) || place.Before(places[job.shard]) {
			places[job.shard] = place
		}
		shards = shards.With(job.shard)
		latest = min(latest, driver.DBTime(at))
	})
	d.latest.Store(int64(latest))
	list := make([]driver.Cursor, 0, shards.Len())
	for _, shard := range shards.List() {
		list = append(list, places[shard])
	}
	d.loader.Evicted(list)
}

// forgetFinished forgets the jobs of all claims that are reported to have ended.
func (d *dispatcher) forgetFinished() {
	for {
		select {
		case ids := <-d.finished:
			d.forget(ids)
		default:
			return
		}
	}
}

// forget lets jobs be loaded again.
func (d *dispatcher) forget(ids []int64) {
	for _, id := range ids {
		if handle, known := d.known[id]; known && handle == noHandle {
			delete(d.known, id)
		}
	}
}

// collect moves the jobs that have fallen due into the batch on offer, and sets the alarm for
// the next one.
func (d *dispatcher) collect() {
	if d.steps != d.clock.steps.Load() {
		// The database's clock went back. A wheel can't go back, so a new one begins.
		d.reset()
		d.loader.Rescan()
	}
	defer d.report()
	lead := d.lead.get()
	now := d.clock.Now()
	if len(d.next.ids) == 0 {
		// The wheel may have been advanced further than that already: what was left over
		// then, or was added since, is due.
		if at, ok := d.wheel.Next(); !ok || at > max(int64(now.Add(lead)), d.wheel.Now()) {
			d.late.Store(false)
			if ok {
				d.wake.Set(driver.DBTime(at).Add(-lead).Sub(now))
			}
			return
		}
	}
	// A claim also takes jobs that fall due a little later: under a steady load there are then few
	// claims instead of one per job.
	until := int64(now.Add(d.lead.reach()))
	take := func(job scheduled, at int64) {
		d.next.take(job, driver.DBTime(at))
		d.known[job.id] = noHandle
	}
	for len(d.next.ids) < d.rows && d.next.bytes < maxClaimBytes {
		if more := d.wheel.Advance(until, d.portion(), take); !more {
			break
		}
	}
	d.late.Store(len(d.next.ids) >= d.rows && d.next.latest < now.Add(-lateBatch))
	if len(d.next.ids) < d.rows {
		if at, ok := d.wheel.Next(); ok {
			d.wake.Set(driver.DBTime(at).Add(-d.lead.reach()).Sub(now))
		}
	}
}

// portion is how many jobs to take from the wheel at once. A job's size is known only when it
// leaves the wheel, so as many are taken as fit if all were as large as the largest; where that
// is none, one. So a claim is too large by one job at most. (To estimate by the mean size of
// earlier jobs was tried: after a small job, 33 jobs of 12 MB made a claim of 400 MB.)
func (d *dispatcher) portion() int {
	return min(d.rows-len(d.next.ids), max(1, (maxClaimBytes-d.next.bytes)/max(1, d.largest)))
}

// report publishes the due time of the oldest job. The batch on offer comes first, as its jobs
// were due before those in the wheel.
func (d *dispatcher) report() {
	oldest := nothingDue
	if len(d.next.ids) > 0 {
		oldest = d.next.earliest
	} else if at, ok := d.wheel.Next(); ok {
		oldest = driver.DBTime(at)
	}
	d.oldest.Store(int64(nothingDue - oldest))
}
