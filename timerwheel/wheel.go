package timerwheel

// Config says how a Wheel measures time. The zero value begins at 0 and has a resolution of one
// unit.
type Config struct {
	// Start is the wheel's first Now, in the caller's units. Deadlines up to it are late. Choose it
	// close to the present, because ticks are counted from it. Defaults to 0.
	Start int64

	// Resolution is the number of units in a tick. Deadlines round up to a multiple of it, counted
	// from Start. A coarser resolution is cheaper, because an entry passes through fewer levels: 64
	// times as many units save one level. A power of two saves divisions. Defaults to 1, also if it
	// is negative.
	Resolution int64
}

// Wheel holds entries until their deadlines. The package documentation describes its design, order
// and costs. Create it with New, and use it from one goroutine at a time.
type Wheel[T any] struct {
	scale scale
	now   int64 // the latest now that Advance was given

	// position is the tick up to which the wheel has worked. It is behind now only during an
	// Advance, and after one that left something over.
	position uint64

	// pendingEnd is the last tick of the slot whose entries are pending, and position if none are.
	// An entry that is due up to then is appended to them: in a lower slot it would overtake
	// entries of its own tick.
	pendingEnd uint64

	entries entries
	lists   lists[T]
	len     int
}

// minMoves is how many entries an Advance may move to a lower level, however small its limit is:
// about 100 µs of work.
const minMoves = 4096

// New returns an empty wheel.
func New[T any](cfg Config) *Wheel[T] {
	w := &Wheel[T]{
		scale:   newScale(cfg.Start, cfg.Resolution),
		now:     cfg.Start,
		entries: newEntries(),
	}
	w.lists.init()
	return w
}

// Len returns the number of entries that have neither expired nor been removed.
func (w *Wheel[T]) Len() int { return w.len }

// Now returns the latest now that was passed to Advance; before the first call, Config.Start.
func (w *Wheel[T]) Now() int64 { return w.now }

// Schedule adds an entry that expires at the deadline, rounded up to the resolution, or with the
// next Advance if the deadline is not after Now. Every int64 is allowed. It is O(1), and allocates
// only if more entries are held than ever before, and then for many at once.
func (w *Wheel[T]) Schedule(value T, deadline int64) Handle {
	i, e := w.entries.acquire()
	r := newRef(i, deadline <= w.now)
	it := item[T]{deadline, value}
	list := uint32(pending)
	if tick := w.scale.tick(deadline, r.late()); tick > w.pendingEnd {
		list = slotFor(w.position, tick)
	}
	e.place = w.lists.tail(list).push(r, &it)
	w.len++
	return e.handle(i)
}

// Cancel removes an entry and returns its value; false if the handle is stale because the entry has
// expired or was removed. It is O(1).
func (w *Wheel[T]) Cancel(h Handle) (value T, ok bool) {
	p, ok := w.entries.find(h)
	if !ok {
		return value, false
	}
	return w.drop(w.lists.block(p.block()), p.position()).value, true
}

// Deadline returns the deadline of an entry as it was scheduled, not rounded; false if the handle
// is stale.
func (w *Wheel[T]) Deadline(h Handle) (deadline int64, ok bool) {
	p, ok := w.entries.find(h)
	if !ok {
		return 0, false
	}
	return w.lists.item(p).deadline, true
}

// Advance moves the wheel to now and calls expire for each entry that is due, at most limit times;
// with a limit of 0 or less no entry expires. If now is before Now, the call changes nothing and
// returns false.
//
// It returns true if it stopped at a bound. What is left over comes first in the next Advance,
// which should follow at once, at the same now or a later one. It returns false when nothing more
// is due. Besides the expirations, the moves from level to level are bounded too, by max(limit,
// 4096), so that a slot of a million entries does not delay everything else. So it may return true
// after fewer than limit expirations, even after none. Repeated calls come to an end, unless the
// limit lets nothing expire or expire keeps scheduling into the past. A limit of math.MaxInt bounds
// neither.
//
// Entries expire in ascending order of their ticks, and those of one tick in the order in which
// they were scheduled. An entry that is scheduled when its tick is finished is appended to the tick
// that the wheel is working on, which is that of the first entry left over: behind the others of
// that tick, and before every later tick.
//
// When expire runs, the entry is removed: its handle is stale, Len is one less, and a panic of
// expire loses that entry only. expire may call all methods. Entries that it schedules up to now
// expire within the same Advance, in their places in the order, as far as the limit allows; entries
// that it cancels do not expire.
func (w *Wheel[T]) Advance(now int64, limit int, expire func(value T, deadline int64)) (more bool) {
	if now < w.now {
		return false
	}
	w.now = now
	reached := w.scale.reached(now)
	moves := max(limit, minMoves)
	for {
		if w.lists.empty(pending) {
			if w.open(reached) {
				continue
			}
			w.position = max(w.position, reached) // expire may have called Advance
			w.pendingEnd = w.position
			return false
		}
		b := w.lists.first(pending)
		k := b.front()
		// Pending entries from a slot of the lowest level are all due. From a higher slot, those
		// are due whose tick is the slot's first one, and those that were late when they were
		// scheduled.
		if w.pendingEnd > w.position && w.tick(b, k) > w.position {
			if moves <= 0 {
				return true
			}
			moves -= w.descend(b, moves)
			continue
		}
		if limit <= 0 {
			return true
		}
		limit--
		it := w.drop(b, k)
		expire(it.value, it.deadline)
	}
}

// Next returns the time at which to call Advance next; false if the wheel is empty. No entry
// expires before at, and an Advance to at makes progress: it expires an entry, or moves entries to
// a lower level, at most once for each level that an entry is above the lowest. A slot with a
// single entry needs no such intermediate steps: at is the instant at which that entry expires.
//
// at is later than Now, unless the latest Advance returned true: then it may be Now, even if
// everything left over has been cancelled since. It is O(1).
func (w *Wheel[T]) Next() (at int64, ok bool) {
	if !w.lists.empty(pending) {
		return w.now, true
	}
	slot, ok := w.lists.occupied.first()
	if !ok {
		return 0, false
	}
	tick, _ := slotSpan(w.position, slot)
	if w.lists.single(slot) {
		b := w.lists.first(slot)
		tick = w.tick(b, b.front())
	}
	return max(w.now, w.scale.instant(tick)), true
}

// open makes the entries of the earliest slot pending, if the slot begins at the tick reached or
// before, and moves the position there. Nothing must be pending. On the lowest level all of them
// are due then; from a higher level they can now move to the levels below.
func (w *Wheel[T]) open(reached uint64) bool {
	slot, ok := w.lists.occupied.first()
	if !ok {
		return false
	}
	first, last := slotSpan(w.position, slot)
	if first > reached {
		return false
	}
	w.position, w.pendingEnd = first, last
	w.lists.take(pending, slot)
	return true
}

// descend moves pending entries of block b to the slots of lower levels, up to its end, to an entry
// that is due, or to limit entries. It returns how many. b must be the first pending block.
func (w *Wheel[T]) descend(b *block[T], limit int) (moved int) {
	k := b.first
	for ; k < b.used && moved < limit; k++ {
		r, it := b.refs[k], &b.items[k]
		if r == 0 {
			continue
		}
		tick := w.scale.tick(it.deadline, r.late())
		if tick <= w.position {
			break
		}
		to := w.lists.tail(slotFor(w.position, tick))
		w.entries.at(r.index()).place = to.push(r, it)
		moved++
	}
	w.lists.forget(b.items[b.first:k])
	b.first = k
	b.live -= uint8(moved)
	if b.live == 0 {
		w.vacate(b)
	}
	return moved
}

// drop removes an entry and returns its item.
func (w *Wheel[T]) drop(b *block[T], k uint8) item[T] {
	dropped := b.items[k]
	w.entries.release(b.refs[k].index())
	b.refs[k] = 0
	w.lists.forget(b.items[k : k+1])
	b.live--
	if b.live == 0 {
		w.vacate(b)
	}
	w.len--
	return dropped
}

// vacate removes an empty block from its list.
func (w *Wheel[T]) vacate(b *block[T]) {
	w.lists.release(b)
	if w.lists.empty(pending) {
		w.pendingEnd = w.position
	}
}

func (w *Wheel[T]) tick(b *block[T], k uint8) uint64 {
	return w.scale.tick(b.items[k].deadline, b.refs[k].late())
}
