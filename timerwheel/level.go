package timerwheel

import "math/bits"

const (
	digitBits  = 6
	digits     = 1 << digitBits                   // slots a level, bits of a uint64
	levelCount = (64 + digitBits - 1) / digitBits // 11: the top one has the 4 remaining bits
	slotCount  = levelCount * digits
)

// slotFor returns the number, level·64 + digit, of the slot in which an entry of that tick belongs
// while the wheel has position < tick.
//
// Write both in base 64: the level is the highest digit in which they differ, and the slot is the
// tick's digit there. As long as the position does not enter the slot, that digit keeps differing
// and the higher ones keep agreeing. So entries move only when the position enters their slot; all
// entries of one tick always share a slot; and everything on a lower level is due before everything
// on a higher one.
func slotFor(position, tick uint64) uint32 {
	level := uint(bits.Len64(position^tick)-1) / digitBits
	digit := tick >> (level * digitBits) % digits
	return uint32(level*digits) + uint32(digit)
}

// slotSpan returns the first and the last tick of a slot, for a position.
func slotSpan(position uint64, slot uint32) (first, last uint64) {
	shift := slot / digits * digitBits
	higher := ^uint64(0) << (shift + digitBits) // 0 on the top level
	lower := uint64(1)<<shift - 1
	first = position&higher | uint64(slot%digits)<<shift
	return first, first | lower
}

// occupancy has a bit for every slot that holds an entry, and a bit for every level that has such a
// slot: two counts of trailing zeros find the earliest slot.
type occupancy struct {
	levels uint16
	slots  [levelCount]uint64
}

func (o *occupancy) set(slot uint32) {
	level := slot / digits
	o.slots[level] |= 1 << (slot % digits)
	o.levels |= 1 << level
}

func (o *occupancy) unset(slot uint32) {
	level := slot / digits
	o.slots[level] &^= 1 << (slot % digits)
	if o.slots[level] == 0 {
		o.levels &^= 1 << level
	}
}

// first returns the earliest occupied slot. The digits that the position has passed need not be
// masked off, because those slots are empty (see the invariants in doc.go).
func (o *occupancy) first() (slot uint32, ok bool) {
	if o.levels == 0 {
		return 0, false
	}
	level := uint32(bits.TrailingZeros16(o.levels))
	return level*digits + uint32(bits.TrailingZeros64(o.slots[level])), true
}
