package load

import (
	"math"
	"slices"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// announced holds what is to be read by id: new rows that hints have named, and ids to look at
// again because a claim did not get them. The two take turns: otherwise thousands of locked
// rows, each looked at every recheckPause, would leave no time for new rows.
//
// announced has no lock and does no I/O; the loader guards it.
type announced struct {
	ranges []idRange // in order of arrival
	again  []recheck // in order of time
	turn   bool      // the next read is of again
	long   bool      // the next read of ranges is of a long one
	// waiting is the set of the ids in again.
	waiting map[int64]struct{}
}

// idRange is a range of ids that hints have named and nobody has read yet.
type idRange struct {
	min, max int64
	earliest driver.DBTime
}

// recheck holds ids that a claim did not get, to be read when the pause is over. Without a
// pause, a row that somebody else has locked would be read and claimed in a busy loop.
type recheck struct {
	ids  []int64
	from driver.DBTime // the first of their fire_at when they were last read, or earlier
	at   time.Time
}

const (
	recheckPause = 50 * time.Millisecond
	// The more ids there are, the longer is the pause. They are overdue, so they are claimed
	// before jobs that fall due now, and too many such claims would leave no time for those.
	// Without this, an application that held locks on 20,000 rows made all other jobs wait.
	recheckShare     = 512 // ids per recheckPause
	mostRecheckPause = 10 * time.Second
	// maxRanges bounds how many ranges are remembered. If there are more, the window is read
	// again from the earliest due time of them.
	maxRanges = 512
	// fewRows is how many ids a range may span to be read by a list of ids, together with
	// others. Such short ranges and longer ones take turns: a single new row does not wait for
	// a hundred thousand that were inserted together.
	fewRows = 16
)

// short reports whether the range is read by a list of ids.
func (r idRange) short() bool { return r.rows() <= fewRows }

// rows is how many ids the range spans, up to math.MaxInt64: ids are any int64, so the
// difference of two may not be one.
func (r idRange) rows() int64 {
	span := uint64(r.max) - uint64(r.min)
	return int64(min(span, math.MaxInt64-1)) + 1
}

func (r idRange) union(o idRange) idRange {
	return idRange{min(r.min, o.min), max(r.max, o.max), min(r.earliest, o.earliest)}
}

// add remembers a range, merged with another one of its kind if they are close together. A range that spans
// more than a page is not remembered, and if there are too many ranges, all are forgotten. Then
// the window has to be read again from the returned due time instead. That read is in order of
// fire_at, so urgent rows come first; and between ids that are far apart there may be very many
// rows of others.
func (a *announced) add(r idRange, page int) (from driver.DBTime, rewind bool) {
	if r.rows() > int64(page) {
		return r.earliest, true
	}
	for i, o := range a.ranges {
		if u := o.union(r); u.rows() <= int64(page) && o.short() == r.short() && u.short() == r.short() {
			a.ranges[i] = u
			return 0, false
		}
	}
	if len(a.ranges) < maxRanges {
		a.ranges = append(a.ranges, r)
		return 0, false
	}
	for _, o := range a.ranges {
		r.earliest = min(r.earliest, o.earliest)
	}
	a.ranges = nil
	return r.earliest, true
}

// lookAgain remembers ids until the pause is over. If there are many, for example when a whole
// quarantine is released, they are spread so that the first don't wait for the last.
func (a *announced) lookAgain(ids []int64, from driver.DBTime, now time.Time) {
	if a.waiting == nil {
		a.waiting = make(map[int64]struct{})
	}
	for some := range slices.Chunk(ids, recheckShare) {
		for _, id := range some {
			a.waiting[id] = struct{}{}
		}
		pause := min(recheckPause*time.Duration(1+len(a.waiting)/recheckShare), mostRecheckPause)
		r := recheck{some, from, now.Add(pause)}
		// The pause may have become shorter.
		place, _ := slices.BinarySearchFunc(a.again, r, func(o, r recheck) int {
			if o.at.After(r.at) {
				return 1
			}
			return -1
		})
		a.again = slices.Insert(a.again, place, r)
	}
}

// waits reports whether an id is to be looked at again later. A scan that finds the row must
// not deliver it sooner.
func (a *announced) waits(id int64) bool {
	_, waits := a.waiting[id]
	return waits
}

// idsRead is one read by id.
type idsRead struct {
	ranges []idRange // a single range that is read as a range, or several that are read as a list of ids
	ids    []int64
	again  bool          // the ids are those of rechecks
	from   driver.DBTime // no announced job is due earlier, and rechecks were not when they were last read
}

func (r idsRead) some() bool { return len(r.ranges) > 0 || len(r.ids) > 0 }

// takeOld returns what to read now if no reads are left for new rows.
func (a *announced) takeOld(now time.Time, page int) (r idsRead) {
	if len(a.again) > 0 && !a.again[0].at.After(now) {
		r = a.takeAgain(now, page)
	}
	return r
}

// take returns what to read now, at most a page, and forgets it.
func (a *announced) take(now time.Time, page int) idsRead {
	again := len(a.again) > 0 && !a.again[0].at.After(now)
	switch {
	case again && (a.turn || len(a.ranges) == 0):
		a.turn = false
		return a.takeAgain(now, page)
	case len(a.ranges) > 0:
		a.turn = true
		return a.takeRanges(page)
	}
	return idsRead{}
}

func (a *announced) takeAgain(now time.Time, page int) idsRead {
	r := idsRead{again: true, from: a.again[0].from}
	for len(a.again) > 0 && !a.again[0].at.After(now) && len(r.ids) < page {
		for _, id := range a.again[0].ids {
			delete(a.waiting, id)
		}
		r.ids = append(r.ids, a.again[0].ids...)
		r.from = min(r.from, a.again[0].from)
		a.again = a.again[1:]
	}
	return r
}

// takeRanges takes the first long range, or all short ones that fit into a page.
func (a *announced) takeRanges(page int) idsRead {
	long := slices.IndexFunc(a.ranges, func(r idRange) bool { return !r.short() })
	some := slices.ContainsFunc(a.ranges, idRange.short)
	if long >= 0 && (a.long || !some) {
		a.long = false
		first := a.ranges[long]
		a.ranges = slices.Delete(a.ranges, long, long+1)
		return idsRead{ranges: []idRange{first}, from: first.earliest}
	}
	a.long = true
	r := idsRead{from: math.MaxInt64}
	a.ranges = slices.DeleteFunc(a.ranges, func(o idRange) bool {
		if !o.short() || len(r.ids)+int(o.rows()) > max(page, fewRows) {
			return false
		}
		r.ranges = append(r.ranges, o)
		r.from = min(r.from, o.earliest)
		for i := range o.rows() {
			r.ids = append(r.ids, o.min+i)
		}
		return true
	})
	return r
}

// next is when the next recheck is due; false if there is none.
func (a *announced) next() (time.Time, bool) {
	if len(a.again) == 0 {
		return time.Time{}, false
	}
	return a.again[0].at, true
}
