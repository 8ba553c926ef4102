package reactor

import (
	"sync/atomic"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// ahead counts the jobs in the wheels by the second in which they are due, for people who want to see them. A wheel cannot be
// read while its owner works on it, and to walk through a million jobs would keep the owner from what is due. So each job
// is counted when it comes and when it goes, at a few nanoseconds, and to look takes nothing from the dispatcher.
//
// The dispatcher writes, anybody reads. nil counts nothing.
type ahead struct {
	seconds [aheadSlots]atomic.Int32
	// overdue are those that were long overdue when they were loaded.
	overdue atomic.Int32
}

const (
	// aheadSlots is how many seconds there are before a slot stands for another one: more than an hour. Nothing is loaded
	// further ahead than a minute, and what is overdue leaves the wheel that is counted, or its last batch is on offer.
	aheadSlots = 1 << 12
	// aheadShown is how many seconds Ahead tells of: what is loaded, and a second at each end.
	aheadShown = int(notifyHorizon/time.Second) + 2
)

func (a *ahead) add(job scheduled, at int64, n int32) {
	switch {
	case a == nil:
	case job.overdue:
		a.overdue.Add(n)
	default:
		a.seconds[secondOf(at)%aheadSlots].Add(n)
	}
}

// clear is for wheels that begin anew.
func (a *ahead) clear() {
	if a == nil {
		return
	}
	for i := range a.seconds {
		a.seconds[i].Store(0)
	}
	a.overdue.Store(0)
}

// secondOf counts whole seconds from before every time, so that it is not negative.
func secondOf(at int64) uint64 { return (uint64(at) + (1<<63/1_000_000+1)*1_000_000) / 1_000_000 }

// Ahead is what waits in the memory of an instance.
type Ahead struct {
	// At is the database's time. Seconds begins with the second of At.
	At driver.DBTime
	// Seconds are numbers of jobs by the second in which they are due, for a minute. What falls due later than
	// Config.Horizon from now is mostly not in memory yet, but in the table.
	Seconds []int64
	// Overdue jobs are due before the second of At, or on offer to the lanes.
	Overdue int64
}

// Ahead tells what waits in memory. It may be called at any time, takes some microseconds, and costs the work on jobs nothing.
func (r *Reactor) Ahead() Ahead { return r.stats.ahead.at(r.clock.Now(), r.stats.pending.Load()) }

func (a *ahead) at(now driver.DBTime, pending int64) Ahead {
	seen := Ahead{At: now, Seconds: make([]int64, aheadShown), Overdue: pending}
	for i := range seen.Seconds {
		// It changes meanwhile, and may be counted in two places for a moment, or in none.
		n := max(0, int64(a.seconds[(secondOf(int64(now))+uint64(i))%aheadSlots].Load()))
		seen.Seconds[i] = n
		seen.Overdue -= n
	}
	seen.Overdue = max(0, seen.Overdue)
	return seen
}
