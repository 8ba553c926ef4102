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
// What is overdue must not keep a front from what is due now: there may be a million rows of it,
// more than memory takes. So a front that has fallen behind the present is split. It goes on from
// the present, and what lies between is the backlog of its shard: a place of its own, from which
// is read up to the split, beside the front and in turns with it.
//
// It is a pure structure; the loader guards it.
type window struct {
	front   places          // of the owned shards
	fresh   driver.ShardSet // never read since we own them
	target  driver.DBTime
	patch   places                       // of the shards to be read once more
	backlog places                       // of the shards of which overdue rows are to be read
	split   [driver.Shards]driver.DBTime // where the backlog of a shard ends
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
	w.backlog.set &= shards
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
	w.backlog.set = w.backlog.set.Minus(shards)
}

// catchUp splits the fronts that are behind a due time, by the present. A fresh front is left
// alone: mostly there is nothing overdue, and one page reads it all. No page may be under way.
func (w *window) catchUp(behind, present driver.DBTime) {
	for _, shard := range w.front.set.Minus(w.fresh).List() {
		if w.front.at[shard].AfterAt < behind {
			w.toBacklog(w.front.at[shard], present)
			w.front.at[shard] = driver.CursorAt(shard, present)
		}
	}
}

// toBacklog has a shard's rows behind a place that are due before end read as backlog.
func (w *window) toBacklog(place driver.Cursor, end driver.DBTime) {
	shard := place.Shard
	if !w.backlog.set.Has(shard) {
		w.backlog.set = w.backlog.set.With(shard)
		w.backlog.at[shard], w.split[shard] = lastPlace, end
	}
	w.split[shard] = max(w.split[shard], end)
	w.backlog.goBack(place)
}

// evicted makes a shard be read again from a place on.
func (w *window) evicted(place driver.Cursor) {
	if w.front.set.Has(place.Shard) {
		w.front.goBack(place)
	}
}

// evictedOverdue has a shard's rows behind a place read again that were due by now.
func (w *window) evictedOverdue(place driver.Cursor, now driver.DBTime) {
	if !w.front.set.Has(place.Shard) {
		return
	}
	front := w.front.at[place.Shard]
	if place.Before(front) {
		w.toBacklog(place, min(now, after(front)))
	}
	if front.AfterAt < now {
		// Some may lie behind the front. Its page, if one is under way, may pass them with a
		// snapshot from before.
		w.front.goBack(later(place, front))
	}
}

// rewind has what all shards have been read of read once more, from a due time on. What the
// backlog is still to read it reads in its turn.
func (w *window) rewind(from driver.DBTime) {
	for _, shard := range w.front.set.List() {
		if !w.patch.set.Has(shard) {
			w.patch.set = w.patch.set.With(shard)
			w.patch.at[shard] = lastPlace
		}
		place := driver.CursorAt(shard, max(from, driver.DistantPast))
		w.patch.goBack(place)
		if w.backlog.set.Has(shard) && w.backlog.reading {
			// The page may pass the rows with a snapshot from before.
			w.backlog.goBack(later(place, w.backlog.at[shard]))
		}
	}
}

func later(a, b driver.Cursor) driver.Cursor {
	if a.Before(b) {
		return b
	}
	return a
}

// end is the due time from which on nobody has read anything: what is due later, the fronts
// get to in their turn, with a snapshot of its own. A page that is being read may pass any
// place up to where it is to end.
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
		if w.backlog.set.Has(shard) && !w.patch.at[shard].Before(w.backlog.at[shard]) {
			w.patch.at[shard] = later(w.patch.at[shard], driver.CursorAt(shard, w.split[shard]))
		}
		if !w.patch.at[shard].Before(w.front.at[shard]) {
			w.patch.set = w.patch.set.Minus(1 << shard)
		}
	}
	return w.patch.before(until)
}

// overdue returns the places from which there is backlog to read, the earliest first.
func (w *window) overdue() []driver.Cursor {
	for _, shard := range w.backlog.set.List() {
		if !w.backlog.at[shard].Before(driver.CursorAt(shard, w.split[shard])) {
			w.backlog.set = w.backlog.set.Minus(1 << shard)
		}
	}
	return w.backlog.before(lastPlace.AfterAt)
}

// beginBacklog notes that a page of backlog is being read, and returns where it is to end.
func (w *window) beginBacklog(read []driver.Cursor) driver.DBTime {
	until := driver.DistantPast
	for _, c := range read {
		until = max(until, w.split[c.Shard])
	}
	return w.backlog.begin(until)
}

// finishBacklog moves the places on to where the page has ended.
func (w *window) finishBacklog(read, rest []driver.Cursor, failed bool) {
	w.backlog.finish(read, rest, failed)
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
