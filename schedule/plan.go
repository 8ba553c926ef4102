package schedule

import "time"

// CatchUp says what happens to occurrences that were missed.
type CatchUp string

const (
	CatchUpSkip CatchUp = "skip" // they are left out
	CatchUpOnce CatchUp = "once" // the latest of them is made
	CatchUpAll  CatchUp = "all"  // all of them are made
)

// MissedAfter is how late an occurrence is made in any case. One that is still not made then, because
// nobody was there to make it, was missed. A take-over takes four seconds.
const MissedAfter = 10 * time.Second

// Policy says which occurrences are made.
type Policy struct {
	CatchUp CatchUp
	// Window is how long ago a missed occurrence may have been that CatchUpAll makes.
	Window time.Duration
	// MaxLateness, if it is not 0, is how late an occurrence may be. One that is later is not made.
	MaxLateness time.Duration
	// Jitter is the longest jitter; ID draws it. See Jitter.
	Jitter time.Duration
	ID     int64
	// Alone: an occurrence is left out if a job of an earlier one waits at its time.
	Alone bool
}

// Occurrence is one time of a schedule.
type Occurrence struct {
	At   time.Time // the time of the expression or the interval
	Fire time.Time // with the jitter
}

// Plan is what to do with a schedule now.
type Plan struct {
	Make []Occurrence // in order of At
	// Decided is the time up to which everything is decided with this: the next plan begins after it.
	Decided time.Time
	// Overlapped is how many occurrences are left out because of Policy.Alone.
	Overlapped int
	// Next is the first occurrence that is not decided yet; zero: there is none. Look is when to make
	// the next plan.
	Next, Look time.Time
}

// Horizon is how occurrences are made ahead of their time. Those that are due within Ahead are made, and
// the next plan is made Lead before the first one that is not. So a schedule that recurs each second is
// planned every Ahead - Lead.
type Horizon struct{ Ahead, Lead time.Duration }

// Plan decides what to make, at most limit occurrences. busy says whether a job of the schedule waits.
// The same arguments give the same plan; whoever has committed one passes its Decided to the next.
func (t *Times) Plan(p Policy, h Horizon, decided, now time.Time, busy bool, limit int) Plan {
	plan := Plan{Decided: decided}
	if missed := now.Add(-MissedAfter); decided.Before(missed) {
		plan.Decided = t.catchUpFrom(p, decided, now, missed)
	}
	for {
		next, ok := t.Next(plan.Decided)
		if !ok {
			plan.Next = time.Time{}
			return plan
		}
		plan.Next = next
		ahead := next.After(now)
		switch {
		case len(plan.Make) == limit:
			plan.Look = now
			return plan
		case next.After(now.Add(h.Ahead)):
			plan.Look = next.Add(-h.Lead)
			return plan
		case p.Alone && busy && ahead:
			// Nobody knows yet whether the earlier job will still wait then.
			if plan.Look = next.Add(-h.Lead); !plan.Look.After(now) {
				plan.Look = next
			}
			return plan
		case p.Alone && busy:
			plan.Overlapped++
		case p.MaxLateness > 0 && next.Add(Jitter(p.ID, next, p.Jitter)).Before(now.Add(-p.MaxLateness)):
		default:
			plan.Make = append(plan.Make, Occurrence{next, next.Add(Jitter(p.ID, next, p.Jitter))})
			busy = true
		}
		plan.Decided = next
	}
}

// catchUpFrom returns the time after which occurrences are made, of those that were missed.
func (t *Times) catchUpFrom(p Policy, decided, now, missed time.Time) time.Time {
	switch p.CatchUp {
	case CatchUpAll:
		if bound := now.Add(-p.Window); decided.Before(bound) {
			return bound
		}
		return decided
	case CatchUpOnce:
		if last, ok := t.Last(decided, missed); ok {
			return last.Add(-time.Microsecond)
		}
	}
	return missed
}

// Jitter returns how much later than its time an occurrence of a schedule fires: 0 to less than most, in
// microseconds. It is the same whenever, and by whomever, it is computed.
func Jitter(id int64, at time.Time, most time.Duration) time.Duration {
	if most < time.Microsecond {
		return 0
	}
	// The finalizer of splitmix64 (Steele, Lea, Flood 2014), over both.
	x := uint64(id)*0x9e3779b97f4a7c15 ^ uint64(at.UnixMicro())
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	return time.Duration(x%uint64(most.Microseconds())) * time.Microsecond
}
