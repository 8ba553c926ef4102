package reactor

import (
	"math"
	"time"

	"github.com/job-publisher/reactor/timerwheel"

	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/handoff"
	"github.com/job-publisher/reactor/reactor/internal/load"
)

// line is where jobs of one kind wait in memory (dispatcher).
type line struct {
	wheel *timerwheel.Wheel[scheduled]
	known map[int64]timerwheel.Handle
	begin func() *timerwheel.Wheel[scheduled]
	most  int // jobs since it was begun
	// ahead counts the jobs of the line; nil: they are all overdue.
	ahead *ahead
}

// scheduled is what a line holds of a Pending, beside its deadline: there may be a
// million of them.
type scheduled struct {
	id      int64
	bytes   int32
	shard   uint8
	overdue bool // it was when it was loaded
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

// heldJob is a job between a line and a batch.
type heldJob struct {
	scheduled
	at driver.DBTime
}

// largePayload is from which size on a job waits in the line of large payloads, in bytes of topic
// and payload: it takes a lane about as long as a few hundred small ones.
const largePayload = handoff.LargePayload

const (
	// wheelResolution is the width of a wheel's finest slots: far below the lead.
	wheelResolution = 256 * time.Microsecond
	// The backlog is kept in order of fire_at by a wheel that has stopped long ago: up to
	// longestOverdue, and beyond that in the order in which it is loaded.
	longestOverdue    = 30 * 24 * time.Hour
	overdueResolution = 1 << 14 * time.Microsecond
	// shrinkFrom is from how many jobs on the memory of a line is given back when it is empty.
	shrinkFrom = 1 << 16
)

func newLine(begin func() *timerwheel.Wheel[scheduled], counts *ahead) line {
	return line{wheel: begin(), known: make(map[int64]timerwheel.Handle), begin: begin, ahead: counts}
}

func (l *line) len() int { return l.wheel.Len() }

func (l *line) schedule(job scheduled, at int64) {
	l.known[job.id] = l.wheel.Schedule(job, at)
	l.most = max(l.most, l.wheel.Len())
	l.ahead.add(job, at, 1)
}

// gone follows up on a job that has left the wheel.
func (l *line) gone(job scheduled, at int64) {
	delete(l.known, job.id)
	l.ahead.add(job, at, -1)
}

// shrink gives the memory of a line back that has been long and is empty. Neither a wheel nor a
// map does that by itself.
func (l *line) shrink() {
	if l.len() == 0 && l.most >= shrinkFrom {
		*l = newLine(l.begin, l.ahead)
	}
}

// reset begins with empty lines at the present time.
func (d *dispatcher) reset() {
	d.steps = d.clock.steps.Load()
	wheel := func(back, resolution time.Duration) func() *timerwheel.Wheel[scheduled] {
		return func() *timerwheel.Wheel[scheduled] {
			return timerwheel.New[scheduled](timerwheel.Config{
				Start:      int64(d.clock.Now().Add(-back)),
				Resolution: int64(resolution / time.Microsecond),
			})
		}
	}
	d.ahead.clear()
	d.near, d.large = newLine(wheel(0, wheelResolution), d.ahead), newLine(wheel(0, wheelResolution), d.ahead)
	d.backlog = newLine(wheel(longestOverdue, overdueResolution), nil)
	if d.claimed == nil {
		d.claimed = make(map[int64]struct{})
	}
	// What is on offer stays, and what is being claimed. What is held is not on offer yet.
	if d.held != nil {
		delete(d.claimed, d.held.id)
		d.held = nil
	}
	d.leftOver, d.leftAgain, d.overdueLarge = false, driver.DistantPast, 0
	d.counted()
	d.latest.Store(int64(driver.DistantPast))
}

// counted notes how many jobs there are.
func (d *dispatcher) counted() {
	n := d.near.len() + len(d.next.ids) + d.backlog.len() + len(d.overdueNext.ids) + d.large.len() + len(d.largeNext.ids)
	if d.held != nil {
		n++
	}
	d.waiting.Store(int64(n))
	d.pending.Store(int64(n))
	d.behind.Store(int64(d.backlog.len() + len(d.overdueNext.ids) + d.overdueLarge))
}

// add schedules loaded jobs. One that is known already may have been rescheduled.
func (d *dispatcher) add(read load.Read) {
	if d.near.len()+d.large.len() == 0 {
		d.latest.Store(int64(driver.DistantPast))
	}
	overdue := d.clock.Now().Add(-d.overdue)
	if read.Behind != 0 {
		overdue = max(overdue, read.Behind)
	}
	for _, job := range read.Rows {
		if _, claimed := d.claimed[job.ID]; claimed {
			continue // if its claim fails, it will be looked at again
		}
		if d.waits(job.ID, job.DueAt) {
			continue
		}
		entry := scheduled{id: job.ID, bytes: job.Bytes, shard: job.Shard, overdue: job.DueAt < overdue, early: minutesEarly(job)}
		switch {
		case int(job.Bytes) >= largePayload:
			if entry.overdue {
				d.overdueLarge++
			}
			d.large.schedule(entry, int64(job.DueAt))
		case entry.overdue:
			d.backlog.schedule(entry, int64(job.DueAt))
			continue
		default:
			d.near.schedule(entry, int64(job.DueAt))
		}
		if job.DueAt > d.LatestDue() {
			d.latest.Store(int64(job.DueAt))
		}
	}
	d.counted()
	if over := int(d.waiting.Load()) - d.capacity; over > 0 {
		d.evict(over + d.capacity/evictedShare)
	}
	d.counted()
}

// waits reports whether a job is in a line for that time. If it is for another, it is removed.
func (d *dispatcher) waits(id int64, at driver.DBTime) bool {
	for _, l := range []*line{&d.near, &d.backlog, &d.large} {
		handle, known := l.known[id]
		if !known {
			continue
		}
		if was, ok := l.wheel.Deadline(handle); ok && was == int64(at) {
			return true
		}
		was, _ := l.wheel.Deadline(handle)
		if job, ok := l.wheel.Cancel(handle); ok {
			l.ahead.add(job, was, -1)
			if l == &d.large {
				d.goneLarge(job)
			}
		}
		delete(l.known, id)
		return false
	}
	return false
}

// goneLarge notes that a job has left the large line.
func (d *dispatcher) goneLarge(job scheduled) {
	if job.overdue {
		d.overdueLarge--
	}
}

// evict makes room by n jobs: the latest of the backlog, as far as it is more than its share, and
// then those that are due last. They are in the table still, and each shard is read again from the
// earliest of its own.
func (d *dispatcher) evict(n int) {
	e := eviction{now: d.clock.Now()}
	d.leaveBehind(e.now) // else what falls due now would be evicted, as it is the latest
	d.counted()
	backlog := min(n, max(0, d.Backlog()-load.BacklogShare(d.capacity)))
	n -= e.from(&d.backlog, backlog, nil)
	if n > 0 {
		e.latest = nothingDue
		n -= e.from(&d.near, n, nil)
		n -= e.from(&d.large, n, d.goneLarge)
		d.latest.Store(int64(e.latest))
		e.from(&d.backlog, n, nil)
	}
	d.loader.Evicted(e.overdue.list(), e.ahead.list(), e.now)
}

// eviction is what has been evicted: of jobs that were due by now, and of others.
type eviction struct {
	now, latest    driver.DBTime
	overdue, ahead evicted
}

// evicted are the earliest places in each shard.
type evicted struct {
	shards driver.ShardSet
	places [driver.Shards]driver.Cursor
}

// from evicts the n last jobs of a line, and returns how many there were.
func (e *eviction) from(l *line, n int, gone func(scheduled)) int {
	n = min(n, l.len())
	l.wheel.EvictLatest(n, func(job scheduled, at int64) {
		l.gone(job, at)
		if gone != nil {
			gone(job)
		}
		e.latest = min(e.latest, driver.DBTime(at))
		to := &e.ahead
		if driver.DBTime(at) < e.now {
			to = &e.overdue
		}
		to.add(load.CursorBefore(job.shard, driver.DBTime(at), job.id))
	})
	return n
}

func (e *evicted) add(place driver.Cursor) {
	if !e.shards.Has(place.Shard) || place.Before(e.places[place.Shard]) {
		e.places[place.Shard] = place
	}
	e.shards = e.shards.With(place.Shard)
}

func (e *evicted) list() []driver.Cursor {
	list := make([]driver.Cursor, 0, e.shards.Len())
	for _, shard := range e.shards.List() {
		list = append(list, e.places[shard])
	}
	return list
}

// forgetFinished takes all ends of claims that were told.
func (d *dispatcher) forgetFinished() {
	for {
		select {
		case batch := <-d.finished:
			d.forget(batch)
		default:
			return
		}
	}
}

// forget lets the jobs of a batch be loaded again.
func (d *dispatcher) forget(batch finished) {
	for _, id := range batch.ids {
		delete(d.claimed, id)
	}
	d.catchUp.back(batch.unpaid)
}
