package load

import (
	"math"
	"slices"

	"github.com/job-publisher/reactor/reactor/driver"
)

// window is how far each owned shard has been read: its front, a place in the order of
// (fire_at, id). Rows before the front have been loaded, as far as they were committed then.
// Rows behind it are still to be read, up to the target.
//
// A front only moves forward by a read that covered the rows in between. It goes back if rows
// were evicted. A hint that is too large to be read by id does not move the front: it adds a
// patch, which is a place from which the rows before the front are read once more. So a hint
// can add work, but it can neither make unread rows count as read nor delay the front.
//
// window has no lock and does no I/O; the loader guards it.
type window struct {
	front  places          // of the owned shards
	fresh  driver.ShardSet // shards that have not been read since we own them
	target driver.DBTime
	patch  places // of the shards to be read once more
}

// places holds one place for each shard of a set.
type places struct {
	set driver.ShardSet
	at  [driver.Shards]driver.Cursor
	// While a page is being read, a place that goes back is also noted here: the page may pass
	// that place with a snapshot that was taken earlier.
	reading bool
	until   driver.DBTime
	lowest  [driver.Shards]driver.Cursor
}

// lastPlace is behind every job.
var lastPlace = driver.Cursor{AfterAt: math.MaxInt64, AfterID: math.MaxInt64}

// CursorBefore is the place from which a job is read again.
func CursorBefore(shard uint8, at driver.DBTime, id int64) driver.Cursor {
	if id == math.MinInt64 {
		return driver.CursorAt(shard, at)
	}
	return driver.Cursor{Shard: shard, AfterAt: at, AfterID: id - 1}
}

// own sets the shards. Gained shards are read from the beginning of time.
func (w *window) own(shards driver.ShardSet) (gained driver.ShardSet) {
	gained = shards.Minus(w.front.set)
	w.front.set = shards
	w.fresh &= shards
	w.patch.set &= shards
	w.restart(gained)
	return gained
}

// restart makes the owned shards be read from the beginning of time.
func (w *window) restart(shards driver.ShardSet) {
	for _, shard := range shards.List() {
		w.front.goBack(driver.CursorAt(shard, driver.DistantPast))
	}
	w.fresh |= shards
	w.patch.set = w.patch.set.Minus(shards)
}

// evicted makes a shard be read again from a place on.
func (w *window) evicted(place driver.Cursor) {
	if w.front.set.Has(place.Shard) {
		w.front.goBack(place)
	}
}

// rewind adds patches: for all shards, rows that were read already are read once more, from a
// due time on.
func (w *window) rewind(from driver.DBTime) {
	for _, shard := range w.front.set.List() {
		if !w.patch.set.Has(shard) {
			w.patch.set = w.patch.set.With(shard)
			w.patch.at[shard] = lastPlace
		}
		w.patch.goBack(driver.CursorAt(shard, max(from, driver.DistantPast)))
	}
}

// end is the due time from which on no row has been read. The fronts will read rows that are
// due later, with a later snapshot. A page that is being read counts up to where it is to end,
// as it may pass any place until there.
func (w *window) end() driver.DBTime {
	end := driver.DistantPast
	if w.front.reading {
		end = w.front.until
	}
	for _, shard := range w.front.set.List() {
		end = max(end, after(w.front.at[shard]))
	}
	return end
}

// swept is the due time up to which no front and no patch still has rows to read, so that a
// sweep up to there reads nothing before them. Fresh shards and patches of the deep past don't
// count: they may take long, and the sweep must not wait for them.
func (w *window) swept(past driver.DBTime) driver.DBTime {
	until := lastPlace.AfterAt
	for _, shard := range w.front.set.Minus(w.fresh).List() {
		until = min(until, after(w.front.at[shard]))
		if w.patch.set.Has(shard) && w.patch.at[shard].AfterAt >= past {
			until = min(until, after(w.patch.at[shard]))
		}
	}
	return until
}

// after is the first due time that is certainly behind a place.
func after(c driver.Cursor) driver.DBTime {
	if c.AfterAt == math.MaxInt64 {
		return c.AfterAt
	}
	return c.AfterAt + 1
}

// unread returns the fronts behind which rows due before until are still to be read, the
// earliest first.
func (w *window) unread(until driver.DBTime) []driver.Cursor {
	return w.front.before(min(until, w.target))
}

// unpatched returns the patches behind which rows due before until are to be read once more,
// the earliest first. A patch that has reached the front is done, as the front reads the rows
// behind. No page of the front may be under way.
func (w *window) unpatched(until driver.DBTime) []driver.Cursor {
	for _, shard := range w.patch.set.List() {
		if !w.patch.at[shard].Before(w.front.at[shard]) {
			w.patch.set = w.patch.set.Minus(1 << shard)
		}
	}
	return w.patch.before(until)
}

// beginFront notes that a page of the fronts is being read, up to the target or an earlier due
// time, and beginPatch one of the patches. They return where it is to end.
func (w *window) beginFront(until driver.DBTime) driver.DBTime {
	return w.front.begin(min(until, w.target))
}

func (w *window) beginPatch(until driver.DBTime) driver.DBTime {
	return w.patch.begin(min(until, w.end()))
}

// finishFront moves the fronts on to where the page has ended.
func (w *window) finishFront(read, rest []driver.Cursor, failed bool) {
	for _, shard := range w.front.finish(read, rest, failed).List() {
		if w.front.at[shard].AfterAt >= driver.DistantPast {
			w.fresh = w.fresh.Minus(1 << shard)
		}
	}
}

// finishPatch moves the patches on to where the page has ended.
func (w *window) finishPatch(read, rest []driver.Cursor, failed bool) {
	w.patch.finish(read, rest, failed)
}

// goBack moves a shard's place back to the given one, if it is further on.
func (p *places) goBack(to driver.Cursor) {
	if place := &p.at[to.Shard]; to.Before(*place) {
		*place = to
	}
	if low := &p.lowest[to.Shard]; p.reading && to.Before(*low) {
		*low = to
	}
}

// before returns the places behind which rows may be due before until.
func (p *places) before(until driver.DBTime) []driver.Cursor {
	var list []driver.Cursor
	for _, shard := range p.set.List() {
		if after(p.at[shard]) < until {
			list = append(list, p.at[shard])
		}
	}
	slices.SortStableFunc(list, driver.Cursor.Compare)
	return list
}

func (p *places) begin(until driver.DBTime) driver.DBTime {
	p.reading, p.until = true, until
	for i := range p.lowest {
		p.lowest[i] = lastPlace
	}
	return until
}

// finish moves the places on to where the page has ended, and returns which have moved. A
// shard's place moves to where its rest begins, or, if the shard had no more rows, to the end
// of the page. If the read has failed, no place moves.
func (p *places) finish(read, rest []driver.Cursor, failed bool) (moved driver.ShardSet) {
	p.reading = false
	if failed {
		return 0
	}
	var ends [driver.Shards]driver.Cursor
	for _, c := range read {
		ends[c.Shard] = driver.CursorAt(c.Shard, p.until)
	}
	for _, c := range rest {
		ends[c.Shard] = c
	}
	for _, c := range read {
		if !p.set.Has(c.Shard) {
			continue
		}
		p.at[c.Shard] = ends[c.Shard]
		if low := p.lowest[c.Shard]; low.Before(ends[c.Shard]) {
			p.at[c.Shard] = low
		}
		if p.at[c.Shard] != c { // with a limit below the number of shards, not every shard was read
			moved = moved.With(c.Shard)
		}
	}
	return moved
}
