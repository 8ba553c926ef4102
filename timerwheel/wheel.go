package timerwheel

// Config says how a Wheel measures time. The zero value is a wheel that begins at 0 and
// tells every unit from the next.
type Config struct {
	// Start is the wheel's first Now, in the caller's units. Deadlines up to it are late.
	// Choose it close to the present: the resolution is counted from here.
	Start int64

	// Resolution is the units that one slot of the lowest level spans. Deadlines round up to
	// a multiple of it, counted from Start. Coarser is cheaper, as an entry passes through
	// fewer levels; doubling it six times saves a level. A power of two saves divisions.
	// Defaults to 1, also where it is negative.
	Resolution int64
}

// Wheel holds entries until their deadline. The package's documentation has its design,
// order and costs. It must be made by New, and used by one goroutine at a time.
type Wheel[T any] struct {
	scale scale
	now   int64 // the latest now that Advance was given

	// position is the tick up to which the wheel has worked. It lags behind now only while
	// an Advance is under way or has left something over.
	position uint64

	// pendingEnd is the last tick of the slot whose entries are pending, and position while
	// none are. An entry that falls due until then queues behind them: were it to go straight
	// into a lower slot, it would overtake entries of its own tick.
	pendingEnd uint64

	entries entries
	lists   lists[T]
	len     int
}

// minMoves is how many entries an Advance may move to a lower level however small its limit:
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

// Len returns the number of entries that are neither expired nor cancelled.
func (w *Wheel[T]) Len() int { return w.len }

// Now returns the latest now that Advance was given, at first Config.Start.
func (w *Wheel[T]) Now() int64 { return w.now }

// Schedule adds an entry to expire at the deadline, rounded up to the resolution, or with
// the next Advance if the deadline is not after Now. Any int64 will do. It is O(1) and
// allocates only when more entries are pending than ever before, and then for many at once.
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

// Cancel removes an entry and returns its value, or false if the handle is stale: the entry
// has expired or was cancelled before. It is O(1).
func (w *Wheel[T]) Cancel(h Handle) (value T, ok bool) {
	p, ok := w.entries.find(h)
	if !ok {
		return value, false
	}
	return w.drop(w.lists.block(p.block()), p.position()).value, true
}

// Deadline returns the deadline with which an entry was scheduled, not rounded, or false if
// the handle is stale.
func (w *Wheel[T]) Deadline(h Handle) (deadline int64, ok bool) {
	p, ok := w.entries.find(h)
	if !ok {
		return 0, false
	}
	return w.lists.item(p).deadline, true
}

// Advance brings the wheel to now and calls expire for what falls due, but not more than
// limit times; a limit of 0 or less expires nothing. Neither does a now before Now: such a
// call changes nothing and returns false.
//
// It returns true where it had to stop at a bound. What is left over comes first in the next
// Advance, which is to follow at once, at the same now or a later one. It returns false when
// nothing is due any more. Beside the expirations, the moves from level to level are bounded
// too, by max(limit, 4096), so that a slot of a million entries does not hold up the rest:
// thus true may be returned after fewer than limit expirations, even after none. Repeating
// the call comes to an end, unless the limit lets nothing expire or expire keeps scheduling
// into the past. A limit of math.MaxInt bounds neither.
//
// Entries expire in ascending order of their ticks, those of one tick in the order in which
// they were scheduled. An entry whose tick has been worked off already when it is scheduled
// takes the end of the tick that the wheel is at, which is that of the first entry left over:
// behind the others of that tick, ahead of every later tick.
//
// When expire runs, the entry is gone: its handle is stale, Len is one less, and a panic of
// expire loses that entry only. It may call all methods. What it schedules up to now expires
// within the same Advance, each in its place of the order, as far as the limit allows; what
// it cancels does not expire.
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
		// What is pending from a slot of the lowest level is all due. From a higher one, that
		// is to be seen: its first tick is, and what was late when it was scheduled.
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

// Next returns when to call Advance next, or false if the wheel is empty. No entry expires
// before at, and an Advance to at makes progress: it expires an entry or moves entries to a
// lower level, at most once for each level an entry is above the lowest. A slot with a
// single entry needs no such halts, at is the instant at which that entry expires.
//
// It is later than Now, unless the latest Advance returned true: then it may be Now, even if
// what was left over has been cancelled since. It is O(1).
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

// open makes the entries of the earliest slot pending, provided that the slot begins by the
// tick reached, and moves the position there. Nothing must be pending. On the lowest level
// that makes all of them due; on a higher one it makes room for them on the levels below.
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

// descend moves pending entries to the slots of lower levels, from the block that is first on
// up to its end, to an entry that is due or to limit entries. It returns how many.
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

// drop removes an entry for good.
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

// vacate takes a block that has become empty off its list.
func (w *Wheel[T]) vacate(b *block[T]) {
	w.lists.release(b)
	if w.lists.empty(pending) {
		w.pendingEnd = w.position
	}
}

func (w *Wheel[T]) tick(b *block[T], k uint8) uint64 {
	return w.scale.tick(b.items[k].deadline, b.refs[k].late())
}
