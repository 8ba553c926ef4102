package load

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestWindowPassesNothing drives a window at random, and records which rows of each shard were
// read by which snapshot: a row that had to be read again while a page was under way is still
// unread after that page.
func TestWindowPassesNothing(t *testing.T) {
	const shards, span, id = 4, 100, 1000
	row := func(at int) driver.Cursor { return driver.Cursor{AfterAt: driver.DBTime(at), AfterID: id} }
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		var w window
		w.own(0b1111)
		w.target = span
		// dirty[s][at] means that a row due then has to be read, by a read that begins later.
		var dirty [shards][span]bool
		for s := range dirty {
			for at := range dirty[s] {
				dirty[s][at] = true
			}
		}
		// A page of the fronts and a page of the patches, which may be under way at the same
		// time in this test.
		type page struct {
			*places
			read     []driver.Cursor
			snapshot [shards][span]bool // rows that were dirty when the page began
		}
		pages := []*page{{places: &w.front}, {places: &w.patch}, {places: &w.backlog}}
		soil := func(s, at int) {
			dirty[s][at] = true
			for _, p := range pages {
				p.snapshot[s][at] = false
			}
		}
		for range 300 {
			switch at := r.IntN(span); r.IntN(9) {
			case 0:
				// A hint is about rows that were committed before; their due times may be
				// anywhere before the end.
				w.rewind(driver.DBTime(at))
				for s := range dirty {
					if after(w.front.at[s]) > driver.DBTime(at) || w.front.reading {
						soil(s, at+r.IntN(span-at))
					}
				}
			case 1:
				s := r.IntN(shards)
				if c := CursorBefore(uint8(s), driver.DBTime(at), id); c.Before(w.front.at[s]) || w.front.reading {
					w.evicted(c)
					soil(s, at)
				}
			case 2:
				s := uint8(r.IntN(shards))
				w.own(w.front.set &^ (1 << s))
				w.own(w.front.set.With(s))
				for at := range span {
					soil(int(s), at)
				}
			case 3:
				if !w.front.reading {
					w.target = min(span, w.target+driver.DBTime(r.IntN(3)))
				}
			case 4:
				if !w.front.reading && !w.backlog.reading {
					w.catchUp(driver.DBTime(at), driver.DBTime(at+r.IntN(3)))
				}
			case 5:
				s := r.IntN(shards)
				now := at + 1 + r.IntN(span-at)
				w.evictedOverdue(CursorBefore(uint8(s), driver.DBTime(at), id), driver.DBTime(now))
				soil(s, at)
				soil(s, at+r.IntN(now-at))
			default:
				p := pages[r.IntN(3)]
				if !p.reading {
					until := driver.DBTime(r.IntN(2 * span))
					p.read = nil
					some := func(list []driver.Cursor) []driver.Cursor { return list[:min(len(list), 1+r.IntN(shards))] }
					switch {
					case p == pages[0]:
						p.read = some(w.unread(until))
						w.beginFront(until)
					case w.front.reading:
					case p == pages[1] && !w.backlog.reading:
						p.read = some(w.unpatched(until))
						w.beginPatch(until)
					case p == pages[2]:
						p.read = some(w.overdue())
						w.beginBacklog(p.read)
					}
					p.snapshot = dirty
					break
				}
				failed := r.IntN(4) == 0
				var rest []driver.Cursor
				for _, c := range p.read {
					to := driver.CursorAt(c.Shard, p.until)
					if to.Before(c) {
						to = c
					}
					if first := max(c.AfterAt+1, 0); r.IntN(2) == 0 && first < p.until {
						to = row(int(first) + r.IntN(int(p.until-first)))
						to.Shard = c.Shard
					}
					if to != driver.CursorAt(c.Shard, p.until) {
						rest = append(rest, to)
					}
					for i := range span {
						if !failed && c.Before(row(i)) && !to.Before(row(i)) && p.snapshot[c.Shard][i] {
							dirty[c.Shard][i] = false
							for _, other := range pages {
								other.snapshot[c.Shard][i] = false
							}
						}
					}
				}
				switch p {
				case pages[0]:
					w.finishFront(p.read, rest, failed)
				case pages[1]:
					w.finishPatch(p.read, rest, failed)
				default:
					w.finishBacklog(p.read, rest, failed)
				}
			}
			for s := range dirty {
				for at, is := range dirty[s] {
					overdue := w.backlog.set.Has(uint8(s)) && w.backlog.at[s].Before(row(at)) && driver.DBTime(at) < w.split[s]
					if is && !overdue && !w.front.at[s].Before(row(at)) && !(w.patch.set.Has(uint8(s)) && w.patch.at[s].Before(row(at))) {
						t.Fatalf("seed %d: shard %d: %d was not read, and will not be: front %v, patch %v, backlog %v to %d", seed, s, at, w.front.at[s], w.patch.at[s], w.backlog.at[s], w.split[s])
					}
				}
			}
		}
	}
}

// TestWindowEnd: a place that a page under way may pass is not beyond the end.
func TestWindowEnd(t *testing.T) {
	var w window
	if w.end() != driver.DistantPast {
		t.Errorf("the end of an empty window is %d", w.end())
	}
	w.own(0b11)
	w.target = 100
	page := w.unread(math.MaxInt64)
	w.beginFront(math.MaxInt64)
	if w.end() != 100 {
		t.Errorf("while a page is read the end is %d", w.end())
	}
	w.finishFront(page, []driver.Cursor{{Shard: 0, AfterAt: 20, AfterID: 5}}, false)
	if w.end() != 100 || w.swept(0) != 21 || w.fresh != 0 {
		t.Errorf("%d … %d, fresh %b", w.swept(0), w.end(), w.fresh)
	}
	w.evicted(CursorBefore(1, 50, 7))
	if w.end() != 51 {
		t.Errorf("after an eviction the end is %d", w.end())
	}
	w.rewind(-500)
	if w.end() != 51 || w.swept(0) != 21 || w.swept(-1000) != -500 {
		t.Errorf("with a patch: %d and %d … %d", w.swept(0), w.swept(-1000), w.end())
	}
	if next := w.unread(21); len(next) != 0 {
		t.Errorf("unread before 21: %v", next)
	}
}

func TestIDRange(t *testing.T) {
	for _, c := range []struct{ min, max, rows int64 }{
		{1, 1, 1},
		{-1, 1, 3},
		{0, math.MaxInt64, math.MaxInt64},
		{math.MinInt64, math.MaxInt64, math.MaxInt64},
		{-6e18, 6e18, math.MaxInt64},
		{math.MinInt64, math.MinInt64, 1},
		{1, math.MaxInt64 - 1, math.MaxInt64 - 1},
	} {
		if rows := (idRange{min: c.min, max: c.max}).rows(); rows != c.rows {
			t.Errorf("%d … %d: %d rows, want %d", c.min, c.max, rows, c.rows)
		}
	}
}

// TestAnnouncedRanges: hints that are close together become one range, others stay apart, and
// too large or too many ranges are left to the window. Single rows and large ranges take turns,
// and are not merged.
func TestAnnouncedRanges(t *testing.T) {
	var a announced
	const page = 100
	for i := range int64(50) {
		if _, rewind := a.add(idRange{i, i, driver.DBTime(i)}, page); rewind {
			t.Fatal("single ids are not for the window")
		}
	}
	a.add(idRange{1 << 60, 1<<60 + 1, 7}, page)
	a.add(idRange{-1 << 60, -1 << 60, 7}, page)
	if from, rewind := a.add(idRange{0, 1 << 60, 5}, page); !rewind || from != 5 {
		t.Errorf("a giant range: from %d, %t", from, rewind)
	}
	r := a.take(time.Now(), page)
	if len(r.ids) != 53 || r.ids[0] != 0 || r.ids[49] != 49 || !slices.Equal(r.ids[50:], []int64{1 << 60, 1<<60 + 1, -1 << 60}) || r.from != 0 {
		t.Errorf("taken %+v", r)
	}
	for i := range int64(3) {
		a.add(idRange{1000 * i, 1000*i + 50, 5}, page)
	}
	a.add(idRange{51, 51, 7}, page) // close to a long one
	for i, want := range []idRange{{0, 50, 5}, {51, 51, 7}, {1000, 1050, 5}, {2000, 2050, 5}} {
		if r = a.take(time.Now(), page); len(r.ranges) != 1 || r.ranges[0] != want || (r.ids == nil) == (i == 1) {
			t.Errorf("turn %d is %+v, want %+v", i, r, want)
		}
	}
	if a.take(time.Now(), page).some() {
		t.Error("there are ranges left")
	}
	for i := range int64(maxRanges) {
		a.add(idRange{i << 40, i << 40, driver.DBTime(1000 - i)}, page)
	}
	if from, rewind := a.add(idRange{-1 << 40, -1 << 40, 9999}, page); !rewind || from != 1000-maxRanges+1 || len(a.ranges) != 0 {
		t.Errorf("too many: from %d, %t, %d left", from, rewind, len(a.ranges))
	}
}
