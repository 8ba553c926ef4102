package page

import (
	"context"
	"errors"
	"time"

	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// readTimeout is how long the database may take for one reading.
const readTimeout = 5 * time.Second

// readDatabase reads how the deployment is doing, over one connection, until ctx ends.
func (p *Page) readDatabase(ctx context.Context, note func(reading)) {
	var rates rates
	pause := tick
	for ctx.Err() == nil {
		err := p.cfg.Jobs(ctx, false, func(a *pgsource.JobsAdmin) error {
			for {
				begun := time.Now()
				r, err := readOnce(ctx, a)
				if err != nil {
					return err
				}
				r.rate = rates.add(r.status)
				note(r)
				pause = tick
				if !sleep(ctx, min(max(tick, sparing*time.Since(begun)), longestPause)) {
					return nil
				}
			}
		})
		if err != nil && ctx.Err() == nil {
			note(reading{err: err})
			sleep(ctx, pause)
			pause = min(2*pause, longestPause)
		}
	}
}

func readOnce(ctx context.Context, a *pgsource.JobsAdmin) (r reading, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	r.status, err = a.Status(ctx)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = errSlow
	}
	r.at = time.Now()
	return r, err
}

// errSlow replaces what pgx says of a timeout.
var errSlow = errors.New("the database has not answered within 5 s")

// sleep waits, and reports whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
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
