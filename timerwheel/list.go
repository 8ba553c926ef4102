package timerwheel

import (
	"math"
	"reflect"
)

// A list is a queue of items: a circular chain of blocks that begins and ends at the list's head.
// Every slot has a list, and the pending entries have one:
const (
	pending   = slotCount // after the slots, which are numbered by level and digit
	listCount = slotCount + 1
)

// block holds items that were pushed one after the other.
//
// Linked entries would be simpler. But walking such a list waits for main memory at every step,
// because the address of the next entry is in the one before: with a million entries that made each
// level cost about 100 ns an entry. The items of a block do not wait for each other, and a
// processor has many reads in progress at once. Of an entry that moves down, only the 8 bytes that
// hold its new place are touched outside of the blocks. A walk waits once for each block.
type block[T any] struct {
	link
	start place         // of the first item
	first uint8         // items before it were removed
	used  uint8         // items from here on are not used yet
	live  uint8         // how many items in between were not removed (a removed item has ref zero)
	refs  [blockLen]ref // to the entries of items
	items [blockLen]item[T]
}

type item[T any] struct {
	deadline int64
	value    T
}

// blockLen balances that wait against unused room, in slots of few entries and after cancellations.
// Twenty items cost a fifth more time, and beyond 52 little is gained.
const blockLen = 52

// link chains blocks and heads. Numbers below listCount name heads, the others name blocks.
type link struct{ next, prev uint32 }

// place is the position of an entry on a list: the block's number·64, plus the index in the block.
type place uint32

const maxBlock = math.MaxUint32>>6 - listCount

func newPlace(number uint32, k uint8) place { return place(number<<6 | uint32(k)) }

func (p place) block() uint32   { return uint32(p >> 6) }
func (p place) position() uint8 { return uint8(p & 63) }

// lists holds all lists, the slab of their blocks, and the free blocks. A block without a live item
// leaves its list at once. So there are never more blocks than entries, in whatever order entries
// are cancelled.
type lists[T any] struct {
	heads    [listCount]link
	tails    [listCount]*block[T] // the last block of each list; full if there is none
	full     *block[T]            // on no list, and without room for an item
	occupied occupancy            // the slots whose lists are not empty
	pointers bool                 // T may contain pointers
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

// single reports whether a list that is not empty has only one item.
func (l *lists[T]) single(list uint32) bool {
	head := l.heads[list]
	return head.next == head.prev && l.block(head.next).live == 1
}

// tail returns the block that takes the next item of a list. Pushing is the most frequent
// operation: with a pointer to the block it need not read a number from the head and then search
// the block in the slab.
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
	l.free = b.next // 0 in a block that was never used
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

// release removes a block without a live item from its list.
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
	l.tails[next] = l.full // the block before it, if there is one, is full as well
	if next == prev && next != pending {
		l.occupied.unset(next)
	}
}

// take moves everything in a slot, which must not be empty, to the empty list to. It keeps the
// order, in constant time.
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

// front returns the index of the first live item.
func (b *block[T]) front() uint8 {
	for b.refs[b.first] == 0 {
		b.first++
	}
	return b.first
}

// forget clears removed items, so that they do not keep alive what their values point to. For
// values without pointers that would be useless work, for everything pending once a level.
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
