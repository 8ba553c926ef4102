package timerwheel

import "math/bits"

// EvictLatest removes the n entries that would expire last, or all if there are fewer, and calls
// evict for each, in no particular order. Of several entries of one tick those that were scheduled
// last are removed first. When evict runs, the entry is removed, as with Advance; evict must not
// call methods of the wheel other than Len and Now.
//
// It is for an owner that keeps only the near future in memory, and schedules an evicted entry
// again when its time comes closer.
//
// Whole slots are emptied from the far end. Within the slot of which a part remains, the latest
// entries are selected digit by digit, which reads the entries of this slot once for each level
// below it. So it costs O(n) plus the size of that one slot, which may be the whole wheel, and plus
// what the latest Advance has left over. Evict some more entries than needed, rather than single
// entries again and again.
func (w *Wheel[T]) EvictLatest(n int, evict func(value T, deadline int64)) {
	n = min(n, w.len)
	if n > 0 {
		w.descendAll()
	}
	for n > 0 {
		list := uint32(pending)
		if slot, ok := w.lists.occupied.last(); ok {
			list = slot
		}
		n -= w.evictFrom(list, n, evict)
	}
}

// descendAll moves whatever is pending and not due to lower slots. An Advance that had to stop may
// have moved only some entries of a slot: then some pending entries are due later than entries in
// slots. Afterwards everything pending is due before everything in slots.
func (w *Wheel[T]) descendAll() {
	if w.pendingEnd == w.position {
		return
	}
	for number := w.lists.heads[pending].next; number != pending; {
		b := w.lists.block(number)
		number = b.next
		for k := b.first; k < b.used && b.live > 0; k++ {
			r, it := b.refs[k], &b.items[k]
			if r == 0 || w.tick(b, k) <= w.position {
				continue
			}
			to := w.lists.tail(slotFor(w.position, w.tick(b, k)))
			w.entries.at(r.index()).place = to.push(r, it)
			b.refs[k] = 0
			w.lists.forget(b.items[k : k+1])
			b.live--
		}
		if b.live == 0 {
			w.lists.release(b)
		}
	}
	w.pendingEnd = w.position
}

// last returns the latest occupied slot: the highest digit on the highest level.
func (o *occupancy) last() (slot uint32, ok bool) {
	if o.levels == 0 {
		return 0, false
	}
	level := uint32(bits.Len16(o.levels) - 1)
	return level*digits + uint32(bits.Len64(o.slots[level])-1), true
}

// evictFrom evicts up to n entries of a list that is not empty, and returns how many. It goes from
// the end to the front, against the order of scheduling.
func (w *Wheel[T]) evictFrom(list uint32, n int, evict func(value T, deadline int64)) (evicted int) {
	first, ties := w.selectLatest(list, n)
	for number := w.lists.heads[list].prev; number >= listCount; {
		b := w.lists.block(number)
		number = b.prev
		for k := b.used; k > b.first && b.live > 0; k-- {
			if b.refs[k-1] == 0 {
				continue
			}
			switch tick := w.tick(b, k-1); {
			case tick < first || tick == first && ties == 0:
				continue
			case tick == first:
				ties--
			}
			it := w.drop(b, k-1)
			evicted++
			evict(it.value, it.deadline)
		}
	}
	return evicted
}

// selectLatest determines the n latest entries of a list: all with a tick after first, and ties of
// those with the tick first.
//
// It is a radix selection with the digits that the levels have anyway. It needs no memory but for
// the counts.
func (w *Wheel[T]) selectLatest(list uint32, n int) (first uint64, ties int) {
	// All ticks of a slot share the digits from its own level up. A pending entry may have any tick
	// up to the position.
	level := (bits.Len64(w.position) + digitBits - 1) / digitBits
	if list != pending {
		first, _ = slotSpan(w.position, list)
		level = int(list / digits)
	}
	for level > 0 {
		level--
		shift := level * digitBits
		known := ^uint64(0) << (shift + digitBits) // 0 on the top level
		var counts [digits]int
		for number := w.lists.heads[list].next; number >= listCount; {
			b := w.lists.block(number)
			number = b.next
			for k := b.first; k < b.used; k++ {
				if b.refs[k] == 0 {
					continue
				}
				if tick := w.tick(b, k); tick&known == first {
					counts[tick>>shift%digits]++
				}
			}
		}
		digit := digits - 1
		for digit > 0 && counts[digit] < n {
			n -= counts[digit]
			digit--
		}
		first |= uint64(digit) << shift
		if n >= counts[digit] && level > 0 { // everything below this digit is evicted
			break
		}
	}
	return first, n
}
