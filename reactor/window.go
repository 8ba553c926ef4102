package reactor

import (
	"cmp"
	"math"
	"slices"
)

// window is how far each owned shard has been read: a place in the order of (fire_at, id).
// What lies before the place has been loaded, as far as it was committed then; what lies
// behind it is still to be read, up to the target.
//
// A place only moves on by a read that covered the way there, and goes back when something
// before it has to be read again: rows that a hint is about, or that were evicted. So a hint
// can add work, and cannot make us believe that something was read.
//
// It is a pure structure; the loader guards it.
type window struct {
	owned  ShardSet
	fresh  ShardSet // never read since we own them
	places [Shards]Cursor
	target DBTime

	// While a page is being read, a place that goes back is noted here as well: the page
	// may have passed it with a snapshot from before.
	reading bool
	until   DBTime
	lowest  [Shards]Cursor
}

// lastPlace is behind every job.
var lastPlace = Cursor{AfterAt: math.MaxInt64, AfterID: math.MaxInt64}

// before is the order of places in one shard.
func (c Cursor) before(o Cursor) bool { return c.compare(o) < 0 }

func (c Cursor) compare(o Cursor) int {
	return cmp.Or(cmp.Compare(c.AfterAt, o.AfterAt), cmp.Compare(c.AfterID, o.AfterID))
}

// cursorBefore is the place from which a job is read again.
func cursorBefore(shard uint8, at DBTime, id int64) Cursor {
	if id == math.MinInt64 {
		return CursorAt(shard, at)
	}
	return Cursor{Shard: shard, AfterAt: at, AfterID: id - 1}
}

// own sets the shards. Gained ones are to be read from the beginning of time.
func (w *window) own(shards ShardSet) (gained ShardSet) {
	gained = shards.Minus(w.owned)
	w.owned = shards
	w.fresh &= shards
	w.restart(gained)
	return gained
}

// restart has shards read from the beginning of time.
func (w *window) restart(shards ShardSet) {
	for _, shard := range shards.List() {
		w.goBack(CursorAt(shard, DistantPast))
	}
	w.fresh |= shards
}

// rewind has all shards read again from that due time on.
func (w *window) rewind(from DBTime) {
	for _, shard := range w.owned.List() {
		w.goBack(CursorAt(shard, max(from, DistantPast)))
	}
}

// goBack moves a shard's place back, if it is further.
func (w *window) goBack(to Cursor) {
	if !w.owned.Has(to.Shard) {
		return
	}
	if place := &w.places[to.Shard]; to.before(*place) {
		*place = to
	}
	if low := &w.lowest[to.Shard]; w.reading && to.before(*low) {
		*low = to
	}
}

// end is the due time from which on nobody has read anything: what is due later, the window
// finds in its turn, with a snapshot of its own. A page that is being read may pass any place
// up to where it is to end.
func (w *window) end() DBTime {
	end := DistantPast
	if w.reading {
		end = w.until
	}
	for _, shard := range w.owned.List() {
		end = max(end, after(w.places[shard]))
	}
	return end
}

// start is the due time before which all owned shards have been read; those that are fresh
// don't count.
func (w *window) start() DBTime {
	start := lastPlace.AfterAt
	for _, shard := range w.owned.Minus(w.fresh).List() {
		start = min(start, after(w.places[shard]))
	}
	return start
}

// after is the first due time that lies behind a place for certain.
func after(c Cursor) DBTime {
	if c.AfterAt == math.MaxInt64 {
		return c.AfterAt
	}
	return c.AfterAt + 1
}

// unread returns the places from which there is something to read that is due before until,
// the earliest first.
func (w *window) unread(until DBTime) []Cursor {
	var list []Cursor
	for _, shard := range w.owned.List() {
		if place := w.places[shard]; after(place) < min(until, w.target) {
			list = append(list, place)
		}
	}
	slices.SortStableFunc(list, Cursor.compare)
	return list
}

// begin notes that a page is being read, up to the target or an earlier due time.
func (w *window) begin(until DBTime) DBTime {
	w.reading, w.until = true, min(until, w.target)
	for i := range w.lowest {
		w.lowest[i] = lastPlace
	}
	return w.until
}

// finish moves the places on to where the page has ended: to its rest, or, where a shard is
// exhausted, to its end. If the read has failed, nothing moves.
func (w *window) finish(read, rest []Cursor, failed bool) {
	w.reading = false
	if failed {
		return
	}
	var ends [Shards]Cursor
	for _, c := range read {
		ends[c.Shard] = CursorAt(c.Shard, w.until)
	}
	for _, c := range rest {
		ends[c.Shard] = c
	}
	for _, c := range read {
		if !w.owned.Has(c.Shard) {
			continue
		}
		end, low := ends[c.Shard], w.lowest[c.Shard]
		if low.AfterAt < DistantPast {
			continue // it is fresh again
		}
		if low.before(end) {
			end = low
		}
		w.places[c.Shard] = end
		if end != c { // with a limit below the number of shards, not all had their turn
			w.fresh &^= 1 << c.Shard
		}
	}
}
