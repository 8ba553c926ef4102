package timerwheel

import (
	"math"
	"reflect"
)

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
// entries that made each level cost about 100 ns an entry. The items of a block do not wait
// for each other, and a processor has many reads under way at once; of an entry on its way
// down only the 8 bytes are touched that tell its new place. A walk waits once a block.
type block[T any] struct {
	link
	start place         // of the first item
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

// blockLen weighs that wait against room left unfilled, by slots of few entries and by what
// was cancelled. Twenty items cost a fifth more time, and beyond 52 little is to be gained.
const blockLen = 52

// link chains blocks and heads. Numbers below listCount are heads, the others blocks.
type link struct{ next, prev uint32 }

// place is where on a list an entry is: the block's number·64, plus the position in it.
type place uint32

const maxBlock = math.MaxUint32>>6 - listCount

func newPlace(number uint32, k uint8) place { return place(number<<6 | uint32(k)) }

func (p place) block() uint32   { return uint32(p >> 6) }
func (p place) position() uint8 { return uint8(p & 63) }

// lists is all lists, the slab of their blocks and those released. A block without a live
// item leaves its list at once. So however entries are cancelled, there are never more blocks
// than entries.
type lists[T any] struct {
	heads    [listCount]link
	tails    [listCount]*block[T] // the last blocks; full where that is gone or never was
	full     *block[T]            // on no list, and without room
	occupied occupancy            // the slots whose lists are not empty
	pointers bool                 // T may hold some
	slab     slab[[blockChunk]block[T]]
	free     uint32 // number of a block, linked by next, or 0
}

const blockChunk = 1 << 7 // 184 kB with values of 16 bytes

func (l *lists[T]) init() {
	l.pointers = holdsPointers(reflect.TypeFor[T]())
	l.full = &block[T]{used: blockLen}
	for i := range l.heads {
		l.heads[i] = link{uint32(i), uint32(i)}
		l.tails[i] = l.full
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

func (l *lists[T]) item(p place) *item[T] {
	return &l.block(p.block()).items[p.position()]
}

func (l *lists[T]) empty(list uint32) bool {
	return l.heads[list].next == list
}

// first returns the first block of a list that is not empty.
func (l *lists[T]) first(list uint32) *block[T] {
	return l.block(l.heads[list].next)
}

// single reports whether a list that is not empty has one item only.
func (l *lists[T]) single(list uint32) bool {
	head := l.heads[list]
	return head.next == head.prev && l.block(head.next).live == 1
}

// tail returns the block that takes the next item of a list. Pushing is what the wheel does
// most: a pointer to the block saves it from asking the head for a number and the slab for
// the block, one after the other.
func (l *lists[T]) tail(list uint32) *block[T] {
	b := l.tails[list]
	if b.used == blockLen {
		b = l.append(list)
	}
	return b
}

// append adds an empty block to a list.
func (l *lists[T]) append(list uint32) *block[T] {
	number := l.free
	if number == 0 {
		number = l.slab.extend(maxBlock, blockChunk) + listCount
	}
	b := l.block(number)
	l.free = b.next // 0 in a block that never was
	b.start = newPlace(number, 0)
	b.first, b.used, b.live = 0, 0, 0
	head := &l.heads[list]
	b.next, b.prev = list, head.prev
	l.link(head.prev).next = number
	head.prev = number
	l.tails[list] = b
	if list != pending {
		l.occupied.set(list)
	}
	return b
}

// release takes a block without a live item from whatever list it is on.
func (l *lists[T]) release(b *block[T]) {
	next, prev := b.next, b.prev
	l.link(next).prev = prev
	l.link(prev).next = next
	number := b.start.block()
	b.next = l.free
	l.free = number
	if next >= listCount {
		return
	}
	l.tails[next] = l.full // so is the block before it, if there is one
	if next == prev && next != pending {
		l.occupied.unset(next)
	}
}

// take moves everything in a slot, which must hold something, to the empty list to. It keeps
// the order and takes constant time.
func (l *lists[T]) take(to, slot uint32) {
	t, f := &l.heads[to], &l.heads[slot]
	*t = *f
	l.link(t.next).prev = to
	l.link(t.prev).next = to
	*f = link{slot, slot}
	l.tails[to], l.tails[slot] = l.tails[slot], l.full
	l.occupied.unset(slot)
}

// push appends an item. The block must not be full.
func (b *block[T]) push(r ref, it *item[T]) place {
	k := b.used
	b.refs[k] = r
	b.items[k] = *it
	b.used++
	b.live++
	return b.start + place(k)
}

// front returns the position of the first live item.
func (b *block[T]) front() uint8 {
	for b.refs[b.first] == 0 {
		b.first++
	}
	return b.first
}

// forget clears items that are gone, lest they keep alive what their values point to.
// Otherwise it would be writing for nothing, all that ever is pending once a level.
func (l *lists[T]) forget(items []item[T]) {
	if l.pointers {
		clear(items)
	}
}

func holdsPointers(t reflect.Type) bool {
	switch kind := t.Kind(); kind {
	case reflect.Array:
		return t.Len() > 0 && holdsPointers(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if holdsPointers(t.Field(i).Type) {
				return true
			}
		}
		return false
	default:
		return kind < reflect.Bool || kind > reflect.Complex128
	}
}
