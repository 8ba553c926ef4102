package timerwheel

import "math"

// A list is a queue of items: a circular chain of blocks, closed by the list's head. Every
// slot has a list, and so has what is being worked on:
const (
	pending   = slotCount // after the slots, which are numbered by level and digit
	listCount = slotCount + 1
)

// block holds what was pushed in a row.
//
// Entries linked to each other would be simpler. But to walk such a list is to wait for main
// memory at every step, as the address of the next entry is in the one before: at a million
// entries that made each level cost about 100 ns an entry. A block is read in one go, and of
// an entry on its way down only the 8 bytes are touched that tell its new place.
type block[T any] struct {
	link
	first uint8         // items before it are gone
	used  uint8         // items from here on have not been set
	live  uint8         // items in between that are not gone (ref zero)
	refs  [blockLen]ref // to the entries of items
	items [blockLen]item[T]
}

type item[T any] struct {
	deadline int64
	value    T
}

const blockLen = 20

// link chains blocks and heads. Numbers below listCount are heads, the others blocks.
type link struct{ next, prev uint32 }

// place is where on a list an entry is: the block's number·32, plus the position in it.
type place uint32

const maxBlock = math.MaxUint32>>5 - listCount

func newPlace(number uint32, k uint8) place { return place(number<<5 | uint32(k)) }

func (p place) block() uint32 { return uint32(p >> 5) }
func (p place) position() int { return int(p & 31) }

// lists is all lists, the slab of their blocks and those released. A block without a live
// item leaves its list at once. So however entries are cancelled, there are never more blocks
// than entries.
type lists[T any] struct {
	heads [listCount]link
	slab  slab[[blockChunk]block[T]]
	free  uint32 // number of a block, linked by next, or 0
}

const blockChunk = 1 << 8 // 144 kB with values of 16 bytes

func (l *lists[T]) init() {
	for i := range l.heads {
		l.heads[i] = link{uint32(i), uint32(i)}
	}
}

func (l *lists[T]) block(number uint32) *block[T] {
	i := number - listCount
	return &l.slab.chunks[i/blockChunk][i%blockChunk]
}

func (l *lists[T]) link(number uint32) *link {
	if number < listCount {
		return &l.heads[number]
	}
	return &l.block(number).link
}

func (l *lists[T]) empty(list uint32) bool {
	return l.heads[list].next == list
}

// push appends to a list.
func (l *lists[T]) push(list uint32, r ref, it *item[T]) place {
	number := l.heads[list].prev
	if number == list {
		number = l.append(list)
	}
	b := l.block(number)
	if b.used == blockLen {
		number = l.append(list)
		b = l.block(number)
	}
	k := b.used
	b.refs[k] = r
	b.items[k] = *it
	b.used++
	b.live++
	return newPlace(number, k)
}

// append adds an empty block to a list.
func (l *lists[T]) append(list uint32) uint32 {
	number := l.free
	if number == 0 {
		number = l.slab.extend(maxBlock, blockChunk) + listCount
	}
	b := l.block(number)
	l.free = b.next // 0 in a block that never was
	b.first, b.used, b.live = 0, 0, 0
	head := &l.heads[list]
	b.next, b.prev = list, head.prev
	l.link(head.prev).next = number
	head.prev = number
	return number
}

// front returns the place of the first item on a list that is not empty.
func (l *lists[T]) front(list uint32) place {
	number := l.heads[list].next
	b := l.block(number)
	for b.refs[b.first] == 0 {
		b.first++
	}
	return newPlace(number, b.first)
}

// single is front for a list that may hold none or several.
func (l *lists[T]) single(list uint32) (p place, ok bool) {
	head := l.heads[list]
	if head.next != head.prev || head.next == list || l.block(head.next).live != 1 {
		return 0, false
	}
	return l.front(list), true
}

func (l *lists[T]) at(p place) (ref, *item[T]) {
	b := l.block(p.block())
	return b.refs[p.position()], &b.items[p.position()]
}

// remove takes an item from whatever list it is on. Where that empties the list, it says so
// and names it. The item is cleared, lest it keep alive what the value points to.
func (l *lists[T]) remove(p place) (list uint32, emptied bool) {
	number := p.block()
	b := l.block(number)
	b.refs[p.position()] = 0
	b.items[p.position()] = item[T]{}
	b.live--
	if b.live > 0 {
		return 0, false
	}
	return l.release(number, b)
}

// release takes a block without a live item from whatever list it is on, like remove.
func (l *lists[T]) release(number uint32, b *block[T]) (list uint32, emptied bool) {
	next, prev := b.next, b.prev
	l.link(next).prev = prev
	l.link(prev).next = next
	b.next = l.free
	l.free = number
	return next, next == prev // a ring of one block and a head
}

// take moves everything on the list from, which must hold something, to the empty list to.
// It keeps the order and takes constant time.
func (l *lists[T]) take(to, from uint32) {
	t, f := &l.heads[to], &l.heads[from]
	*t = *f
	l.link(t.next).prev = to
	l.link(t.prev).next = to
	*f = link{from, from}
}
