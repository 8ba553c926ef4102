package reactor

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/job-publisher/reactor/internal/alarm"
	"github.com/job-publisher/reactor/timerwheel"
)

// dispatcher owns the wheel: it takes what the loader reads, waits until jobs fall
// due, less the lead, and hands them in batches to whichever lane is free.
//
// A batch that no lane takes yet keeps growing up to its limit; that is how batches
// form under load, without any waiting when there is none.
type dispatcher struct {
	clock    *clock
	lead     *lead
	stats    *counters
	loaded   <-chan []Pending
	due      chan<- due
	finished <-chan []int64 // ids whose claim has ended
	roomy    signal         // set when there is room for the loader again
	rebuilt  func()         // asks the loader for everything, after a rebuild
	rows     int            // limit of a batch
	capacity int            // limit of the wheel
	late     atomic.Bool    // a full batch is on offer, and long due

	// Owned by run.
	wheel *timerwheel.Wheel[scheduled]
	known map[int64]timerwheel.Handle // in the wheel, or being claimed (noHandle)
	next  due
	wake  *alarm.Alarm
	steps int64 // of the clock that the wheel has seen
}

// scheduled is what the wheel holds of a Pending, beside its deadline: there may be a
// million of them.
type scheduled struct {
	id    int64
	bytes int32
}

// due is a batch of jobs to claim.
type due struct {
	ids      []int64
	bytes    int
	latest   DBTime // the last of their due times
	earliest DBTime // and the first
}

// wheelResolution is the width of the wheel's finest slots: far below the lead.
const wheelResolution = 256 * time.Microsecond

// lateBatch is how long a full batch must have been due for us to be behind.
const lateBatch = 100 * time.Millisecond

// noHandle marks a job that has left the wheel and whose claim has not ended.
var noHandle timerwheel.Handle

// room is how many more jobs the wheel takes. It may be called by anyone.
func (d *dispatcher) room() int { return d.capacity - int(d.stats.pending.Load()) }

// behind reports whether jobs fall due faster than they are claimed. It may be called
// by anyone.
func (d *dispatcher) behind() bool { return d.late.Load() }

// run works until ctx ends. If drain is closed, nothing more will be loaded, and
// run returns when everything has been handed out.
func (d *dispatcher) run(ctx context.Context, drain <-chan struct{}) error {
	wake, err := alarm.New()
	if err != nil {
		return err
	}
	defer wake.Close()
	d.wake = wake
	d.reset()
	draining := false
	for {
		step := d.clock.step()
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
			d.stats.pending.Add(-int64(len(d.next.ids)))
			d.next = due{}
			if d.room() >= d.capacity/4 {
				d.roomy.set()
			}
		case rows := <-d.loaded:
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
	d.stats.pending.Store(int64(len(d.next.ids)))
}

// add schedules loaded jobs. One that is known already may have been rescheduled.
func (d *dispatcher) add(rows []Pending) {
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
		d.known[job.ID] = d.wheel.Schedule(scheduled{job.ID, job.Bytes}, int64(job.DueAt))
	}
	d.stats.pending.Store(int64(d.wheel.Len() + len(d.next.ids)))
}

// forget lets jobs be loaded again.
func (d *dispatcher) forget(ids []int64) {
	for _, id := range ids {
		if handle, known := d.known[id]; known && handle == noHandle {
			delete(d.known, id)
		}
	}
}

// collect moves what has fallen due into the batch on offer, and sets the alarm for
// what comes next.
func (d *dispatcher) collect() {
	if d.steps != d.clock.steps.Load() {
		// The database's clock went back. The wheel's does not; begin anew.
		d.reset()
		d.rebuilt()
	}
	lead := d.lead.get()
	now := d.clock.Now()
	if len(d.next.ids) == 0 {
		// The wheel may have been advanced further than that already: what was left over
		// then, or was added since, is due.
		if at, ok := d.wheel.Next(); !ok || at > max(int64(now.Add(lead)), d.wheel.Now()) {
			d.late.Store(false)
			if ok {
				d.wake.Set(DBTime(at).Add(-lead).Sub(now))
			}
			return
		}
	}
	// Once a claim is to be made it takes what falls due during the next lead, too:
	// under a steady load one claim then follows the other, instead of one a job.
	until := int64(now.Add(2 * lead))
	for len(d.next.ids) < d.rows && d.next.bytes < maxClaimBytes {
		more := d.wheel.Advance(until, d.portion(), func(job scheduled, at int64) {
			d.next.ids = append(d.next.ids, job.id)
			d.next.bytes += int(job.bytes)
			d.next.latest = max(d.next.latest, DBTime(at))
			if len(d.next.ids) == 1 {
				d.next.earliest = DBTime(at) // they leave the wheel in order
			}
			d.known[job.id] = noHandle
		})
		if !more {
			break
		}
	}
	d.late.Store(len(d.next.ids) >= d.rows && d.next.latest < now.Add(-lateBatch))
	if len(d.next.ids) < d.rows {
		if at, ok := d.wheel.Next(); ok {
			d.wake.Set(DBTime(at).Add(-2 * lead).Sub(now))
		}
	}
}

// portion is how many jobs to take from the wheel at once. Their size is known only
// afterwards, so it follows the mean of those taken before: large payloads, which
// rarely come alone, must not make a claim that does not fit in memory.
func (d *dispatcher) portion() int {
	taken := len(d.next.ids)
	if taken == 0 {
		return 1
	}
	mean := d.next.bytes/taken + 1
	return min(d.rows-taken, maxPortion, max(1, (maxClaimBytes-d.next.bytes)/mean))
}

// maxPortion bounds what a few small jobs say about the ones that follow.
const maxPortion = 32
