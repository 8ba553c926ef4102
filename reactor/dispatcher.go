package reactor

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync/atomic"
	"time"

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
	clock     *clock
	lead      *lead
	largeLead *lead // of claims of large payloads
	loader    refiller
	newAlarm  func() (waker, error)
	loaded    <-chan load.Read
	urgent    chan<- due      // to lanes that hold no bulk
	anyone    chan<- due      // to any lane: an urgent batch that nobody has taken
	bulk      chan<- due      // to lanes that may take bulk
	finished  <-chan finished // batches whose claim has ended
	rows      int             // limit of a batch
	capacity  int             // limit of all lines
	// overdue is how long overdue a job is, when it is loaded, that goes to the backlog.
	overdue time.Duration
	catchUp catchUp // owned by run
	budget  *budget
	pulse   *pulse
	// Statistics: written here, read by Stats alone. firstDue is as oldest.
	pending, firstDue *atomic.Int64
	ahead             *ahead // read by Ahead alone

	// Written by run, read by anyone.
	waiting atomic.Int64 // jobs in the lines and on offer
	behind  atomic.Int64 // those of them that are overdue, see Backlog
	late    atomic.Bool  // a full batch is on offer, and long due
	oldest  atomic.Int64 // see OldestDue: nothingDue minus that time; 0: no job is due
	latest  atomic.Int64 // see LatestDue

	// Owned by run.
	near, backlog, large line
	claimed              map[int64]struct{} // on offer, or being claimed
	next                 due                // of the near line
	overdueNext          due                // of the backlog
	largeNext            due
	held                 *heldJob      // left the large line, and did not fit into its batch
	offered              time.Time     // since when next is on offer
	leftOver             bool          // the near wheel has stopped at a limit: the rest up to its Now is due
	leftAgain            driver.DBTime // when leaveBehind is to look again
	left                 []heldJob     // reused by leaveBehind
	overdueLarge         int           // of the large line
	wake                 waker
	steps                int64 // of the clock that the wheels have seen
}

// refiller is what the dispatcher needs of the loader: to be told what to read, and when.
type refiller interface {
	// Roomy: there is room again, after memory was full (load.ResumeRoom), or had enough backlog.
	Roomy()
	// Rescan: memory was emptied.
	Rescan()
	// Evicted: what lies behind these places, one a shard, is not in memory any more: of what was
	// due by now, and of what is due later.
	Evicted(overdue, ahead []driver.Cursor, now driver.DBTime)
	// Owes: jobs that a claim did not get are still to be looked at again; Paid is signalled when none is.
	Owes() bool
	Paid() <-chan struct{}
}

// lateBatch is how long a full batch must have been due for us to be behind.
const lateBatch = 100 * time.Millisecond

// evictedShare is the share of the capacity that is evicted beyond what is needed: selecting
// the latest jobs of the whole wheel costs too much to do it for each new job.
const evictedShare = 64

// backlogSteps is in how many steps of the capacity the loader hears of less backlog.
const backlogSteps = 64

const (
	// leftBehind is how long a job is overdue that moves from the near line to the backlog,
	// because more is due than is claimed.
	leftBehind = 50 * time.Millisecond
	// leastOverdue and mostOverdue bound dispatcher.overdue: what the sweep finds within its loop
	// has its turn before the backlog.
	leastOverdue = time.Second
	mostOverdue  = 5 * time.Second
)

// overdueAfter is dispatcher.overdue by the time between two sweeps.
func overdueAfter(loop time.Duration) time.Duration {
	return min(max(leastOverdue, loop*3/2), mostOverdue)
}

// Room is how many more jobs memory takes. It may be called by anyone, as may the next
// five.
func (d *dispatcher) Room() int { return d.capacity - int(d.waiting.Load()) }

// Backlog is how many of the jobs are overdue, and wait their turn.
func (d *dispatcher) Backlog() int { return int(d.behind.Load()) }

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

// LatestDue bounds what is in memory beside the backlog: nothing is due later. It may be too late
// by far, as it falls only when something is evicted or nothing is left.
func (d *dispatcher) LatestDue() driver.DBTime { return driver.DBTime(d.latest.Load()) }

// run works until ctx ends. If drain is closed, nothing new will be loaded, and run returns when
// everything has been handed out, and nothing is to be looked at again.
func (d *dispatcher) run(ctx context.Context, drain <-chan struct{}) error {
	wake, err := d.newAlarm()
	if err != nil {
		return err
	}
	defer wake.Close()
	d.wake = wake
	d.pulse.begin()
	defer d.pulse.end()
	d.reset()
	draining := false
	for {
		step := d.clock.Step()
		d.collect()
		if draining && len(d.claimed) == 0 && d.waiting.Load() == 0 && !d.loader.Owes() {
			return nil
		}
		urgent, anyone, overdue, large := d.offers()
		d.pulse.rest()
		select {
		case <-ctx.Done():
			return nil
		case urgent <- d.next:
			d.handedOver(&d.next)
		case anyone <- d.next:
			d.handedOver(&d.next)
		case overdue <- d.overdueNext:
			d.handedOver(&d.overdueNext)
		case large <- d.largeNext:
			d.handedOver(&d.largeNext)
		case read := <-d.loaded:
			d.forgetFinished() // first, because the read may include such jobs, to be looked at again
			d.add(read)
		case batch := <-d.finished:
			d.forget(batch)
		case <-d.budget.freed:
		case <-wake.C():
		case <-step:
		case <-d.loader.Paid():
		case <-drain:
			draining, drain = true, nil
		}
		d.pulse.work()
	}
}

// offers are the channels on which there is something to hand out, and the budget allows it.
func (d *dispatcher) offers() (urgent, anyone, overdue, large chan<- due) {
	if len(d.next.ids) > 0 && d.budget.reserve(&d.next) {
		urgent = d.urgent
		if time.Since(d.offered) >= d.patience() {
			anyone = d.anyone
		}
	}
	if len(d.overdueNext.ids) > 0 && d.budget.reserve(&d.overdueNext) {
		overdue = d.bulk
	}
	if len(d.largeNext.ids) > 0 && d.budget.reserve(&d.largeNext) {
		large = d.bulk
	}
	return urgent, anyone, overdue, large
}

// patience is how long an urgent batch waits for a lane without bulk.
func (d *dispatcher) patience() time.Duration { return d.lead.get() / 2 }

// handedOver follows up on a batch that a lane has taken.
func (d *dispatcher) handedOver(batch *due) {
	full := d.Room() < load.ResumeRoom(d.capacity)
	step := d.Backlog() * backlogSteps / d.capacity
	*batch = due{}
	d.counted()
	if full && d.Room() >= load.ResumeRoom(d.capacity) || d.Backlog()*backlogSteps/d.capacity < step {
		d.loader.Roomy()
	}
}

// collect moves what has fallen due into the batches on offer, and sets the alarm for
// what comes next.
func (d *dispatcher) collect() {
	if d.steps != d.clock.steps.Load() {
		// The database's clock went back. The wheels' does not; begin anew.
		d.reset()
		d.loader.Rescan()
	}
	now := d.clock.Now()
	next := min(d.collectNear(now), d.collectLarge(now), d.collectBacklog())
	d.late.Store(d.next.full(d.rows) && d.next.latest < now.Add(-lateBatch) || d.backlog.len()+len(d.overdueNext.ids) >= d.rows)
	d.counted()
	d.report()
	if next < never {
		d.wake.Set(next)
	}
}

// never is longer than any alarm is set for.
const never time.Duration = math.MaxInt64

// collectNear fills the urgent batch, and returns when to look again.
func (d *dispatcher) collectNear(now driver.DBTime) (again time.Duration) {
	wheel, lead := d.near.wheel, d.lead.get()
	d.leaveBehind(now)
	if len(d.next.ids) == 0 {
		// The wheel may have been advanced further than that already: what was left over
		// then, or was added since, is due.
		if at, ok := wheel.Next(); !ok || at > max(int64(now.Add(lead)), wheel.Now()) {
			if !ok {
				return never
			}
			return driver.DBTime(at).Add(-lead).Sub(now)
		}
	}
	// Once a claim is to be made it takes what falls due during the next lead, too:
	// under a steady load one claim then follows the other, instead of one a job. But first
	// comes what was left over, without advancing the wheel: see leaveBehind.
	take := func(job scheduled, at int64) { d.take(&d.next, &d.near, job, at) }
	before := len(d.next.ids)
	until := max(int64(now.Add(d.lead.reach())), wheel.Now()) // the lead may have become shorter
	for len(d.next.ids) < d.rows && d.next.bytes < maxClaimBytes {
		to := until
		if d.leftOver {
			to = wheel.Now()
		}
		stopped := wheel.Advance(to, d.portion(), take)
		if !stopped && !d.leftOver {
			break
		}
		d.leftOver = stopped
	}
	if before == 0 && len(d.next.ids) > 0 {
		d.offered = time.Now()
	}
	again = max(d.patience()-time.Since(d.offered), 0)
	if again == 0 {
		again = never
	}
	if d.leftOver {
		return min(again, max(driver.DBTime(wheel.Now()).Add(leftBehind), d.leftAgain).Sub(now)+time.Millisecond)
	}
	if len(d.next.ids) < d.rows {
		if at, ok := wheel.Next(); ok {
			again = min(again, max(driver.DBTime(at).Add(-d.lead.reach()).Sub(now), 0))
		}
	}
	return again
}

// leaveBehind moves to the backlog what was left over of the near line, when all of it has been
// overdue for a moment: more was due than is claimed, and what falls due now is not to wait for it.
// While something is left over the wheel does not advance, so all of it was due by its Now. The
// youngest, up to a batch, stay: the next claim takes them, and in the backlog they would be the last.
func (d *dispatcher) leaveBehind(now driver.DBTime) {
	wheel := d.near.wheel
	if !d.leftOver || driver.DBTime(wheel.Now()) > now.Add(-leftBehind) || now < d.leftAgain {
		return
	}
	d.leftAgain = now.Add(leftBehind / 4)
	left := d.left[:0]
	for more := true; more; {
		more = wheel.Advance(wheel.Now(), math.MaxInt, func(job scheduled, at int64) {
			d.near.ahead.add(job, at, -1)
			left = append(left, heldJob{job, driver.DBTime(at)})
		})
	}
	// They come in order, but for those that were loaded late.
	slices.SortStableFunc(left, func(a, b heldJob) int { return cmp.Compare(a.at, b.at) })
	old := max(0, len(left)-d.rows)
	for _, job := range left[:old] {
		delete(d.near.known, job.id)
		d.backlog.schedule(job.scheduled, int64(job.at))
	}
	for _, job := range left[old:] {
		d.near.schedule(job.scheduled, int64(job.at))
	}
	d.leftOver = len(left) > 0
	if d.left = left; cap(left) > shrinkFrom {
		d.left = nil
	}
	d.near.shrink()
}

// collectBacklog fills the batch of the backlog, and returns when to look again. All of it is due.
func (d *dispatcher) collectBacklog() (again time.Duration) {
	wheel := d.backlog.wheel
	for len(d.overdueNext.ids) < d.rows && d.overdueNext.bytes < maxClaimBytes {
		at, ok := wheel.Next()
		if !ok {
			return never
		}
		n, again := d.catchUp.allow(d.clock.local(), min(d.rows-len(d.overdueNext.ids), d.fitting(&d.overdueNext)))
		if n == 0 {
			return again
		}
		before := len(d.overdueNext.ids)
		wheel.Advance(at, n, func(job scheduled, at int64) { d.take(&d.overdueNext, &d.backlog, job, at) })
		d.catchUp.took(len(d.overdueNext.ids) - before)
		d.overdueNext.bulk = true
	}
	return never
}

// collectLarge fills the batch of large payloads, and returns when to look again. Which job does
// not fit is known only when it has left the wheel: it is the first of the next batch. (The
// mean size of those taken before was tried: behind a small one, 33 jobs of 12 MB made a claim of 400.)
func (d *dispatcher) collectLarge(now driver.DBTime) (again time.Duration) {
	wheel, lead := d.large.wheel, d.largeLead.get()
	if len(d.largeNext.ids) == 0 && d.held != nil {
		d.take(&d.largeNext, &d.large, d.held.scheduled, int64(d.held.at))
		d.held = nil
	}
	for d.held == nil && len(d.largeNext.ids) < d.rows && d.largeNext.bytes < maxClaimBytes {
		at, ok := wheel.Next()
		if !ok {
			return never
		}
		if at > max(int64(now.Add(lead)), wheel.Now()) {
			return driver.DBTime(at).Add(-lead).Sub(now)
		}
		if d.overdueLarge > 0 { // they are the first
			n, again := d.catchUp.allow(d.clock.local(), 1)
			if n == 0 {
				return again
			}
			d.catchUp.took(1)
		}
		wheel.Advance(max(int64(now.Add(lead)), wheel.Now()), 1, func(job scheduled, at int64) {
			d.goneLarge(job)
			if len(d.largeNext.ids) > 0 && d.largeNext.bytes+int(job.bytes) > maxClaimBytes {
				delete(d.large.known, job.id) // it is counted until it is taken
				d.claimed[job.id] = struct{}{}
				d.held = &heldJob{job, driver.DBTime(at)}
				return
			}
			d.take(&d.largeNext, &d.large, job, at)
			d.largeNext.large = true
		})
	}
	return never
}

// take moves a job from a line into a batch.
func (d *dispatcher) take(batch *due, from *line, job scheduled, at int64) {
	from.gone(job, at)
	d.claimed[job.id] = struct{}{}
	batch.take(job, driver.DBTime(at))
	if job.overdue || from == &d.backlog {
		batch.paced++
	}
}

// portion is how many jobs to take from the near wheel at once.
func (d *dispatcher) portion() int { return min(d.rows-len(d.next.ids), d.fitting(&d.next)) }

// fitting is how many small jobs a batch takes for certain; one at least.
func (d *dispatcher) fitting(batch *due) int {
	return max(1, (maxClaimBytes-batch.bytes)/largePayload)
}

// report publishes the age of the oldest job. What is on offer left its line before what is
// still in it.
func (d *dispatcher) report() {
	oldest := nothingDue
	for _, from := range []struct {
		batch *due
		line  *line
	}{{&d.next, &d.near}, {&d.overdueNext, &d.backlog}, {&d.largeNext, &d.large}} {
		if len(from.batch.ids) > 0 {
			oldest = min(oldest, from.batch.earliest)
		} else if at, ok := from.line.wheel.Next(); ok {
			oldest = min(oldest, driver.DBTime(at))
		}
	}
	d.oldest.Store(int64(nothingDue - oldest))
	d.firstDue.Store(int64(nothingDue - oldest))
}
