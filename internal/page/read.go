package page

import (
	"context"
	"slices"
	"time"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// readDatabase reads how the deployment is doing, until ctx ends.
func (p *Page) readDatabase(ctx context.Context, note func(reading)) {
	p.drawing.Lock()
	p.axes = axes{} // who begins to look sees what is, on scales of now
	p.drawing.Unlock()
	var rates rates
	var leaving leaving
	var ahead ahead
	failed := tick
	for ctx.Err() == nil {
		begun := time.Now()
		var r reading
		r.err = p.cfg.Jobs.Look(ctx, func(a *pgsource.JobsAdmin) (err error) {
			if r.status, err = a.Status(ctx); err != nil {
				return err
			}
			r.future, err = ahead.read(ctx, a)
			return err
		})
		pause := min(max(tick, sparing*time.Since(begun)), longestPause)
		if r.err == nil {
			r.at, r.rate, r.gone = time.Now(), rates.add(r.status), leaving.add(r.status)
			failed = tick
		} else {
			pause = failed
			failed = min(2*failed, longestPause)
		}
		if ctx.Err() == nil {
			note(r)
		}
		wait.Sleep(ctx, pause)
	}
}

// futureSteps are what is shown of the future: a minute, an hour, a day.
var futureSteps = []struct {
	step  time.Duration
	steps int
}{{time.Second, 60}, {time.Minute, 60}, {time.Hour, 24}}

// Where much is to come, a read of it is the largest that the page does. So each of the three takes the 400th part of the time at
// most: one of 30 ms is done every 12 s.
const (
	futurePause        = 5 * time.Second
	futureSparing      = 400
	futureLongestPause = time.Minute
)

// ahead keeps what was read of the future. The zero value is ready.
type ahead struct {
	list []pgsource.Future
	next []time.Time // when each is read again
}

// read returns what is to come, and reads what was read too long ago. The result does not change any more.
func (k *ahead) read(ctx context.Context, a *pgsource.JobsAdmin) ([]pgsource.Future, error) {
	k.list = slices.Clone(k.list)
	for i, s := range futureSteps {
		begun := time.Now()
		if i < len(k.next) && begun.Before(k.next[i]) {
			continue
		}
		f, err := a.Future(ctx, s.step, s.steps)
		if err != nil {
			return nil, err
		}
		next := time.Now().Add(min(max(futurePause, futureSparing*time.Since(begun)), futureLongestPause))
		if i == len(k.next) {
			k.list, k.next = append(k.list, f), append(k.next, next)
		} else {
			k.list[i], k.next[i] = f, next
		}
	}
	return k.list, nil
}

// rates tells how many jobs a second are published, from what the instances have counted. The zero value is ready.
type rates struct{ kept []counts }

// counts are those of all instances at a time of the database.
type counts struct {
	at        driver.DBTime
	published map[int64]int64 // by the id of the instance
}

// rateWindow is what a rate is of: short enough to be live, long enough not to jump about with the heartbeats.
const rateWindow = 10 * time.Second

// add notes a status, and returns the rate; negative: there is none yet.
func (r *rates) add(s pgsource.Status) float64 {
	now := counts{s.At, map[int64]int64{}}
	for _, i := range s.Instances {
		if i.Snapshot != nil {
			now.published[i.ID] = i.Snapshot.Published
		}
	}
	for len(r.kept) > 1 && now.at.Sub(r.kept[1].at) >= rateWindow {
		r.kept = r.kept[1:]
	}
	r.kept = append(r.kept, now)
	first := r.kept[0]
	elapsed := now.at.Sub(first.at)
	if elapsed < time.Second {
		return -1
	}
	var jobs int64
	for id, n := range now.published {
		if before, ok := first.published[id]; ok && n > before { // one that has just begun counts from its second snapshot on
			jobs += n - before
		}
	}
	return float64(jobs) / elapsed.Seconds()
}

// gone is an instance whose row is gone: it was stopped, or it has died and the others have taken over. The tables do not tell which.
type gone struct {
	Name string
	At   time.Time
}

const (
	// goneFor is how long it is told, and mostGone of how many.
	goneFor, mostGone = 5 * time.Minute, 5
)

// leaving tells which instances have gone. The zero value is ready.
type leaving struct {
	there []pgsource.InstanceStatus
	gone  []gone
}

// add notes a status, and returns those that have gone lately, and have not come back.
func (l *leaving) add(s pgsource.Status) []gone {
	is := func(list []pgsource.InstanceStatus, name string) bool {
		return slices.ContainsFunc(list, func(i pgsource.InstanceStatus) bool { return i.Name == name })
	}
	for _, i := range l.there {
		if !is(s.Instances, i.Name) {
			l.gone = append(l.gone, gone{i.Name, s.At.Time()})
		}
	}
	l.there = s.Instances
	var left []gone
	for _, g := range l.gone {
		if s.At.Time().Sub(g.At) < goneFor && !is(s.Instances, g.Name) {
			left = append(left, g)
		}
	}
	l.gone = left[max(0, len(left)-mostGone):]
	return l.gone
}
