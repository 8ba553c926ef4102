package timerwheel

import "math"

// Handle names one scheduled entry: its index in the lower half, the generation of that index in
// the upper half. The zero Handle names nothing. A Handle may be kept after its entry has expired
// or was cancelled: the generation no longer matches then, even if the index has been used again.
// (The generations of an index repeat after 2³¹ uses of it, so do not keep a Handle for long after
// its entry is gone.)
type Handle uint64

// entry says where on a list the deadline and the value of a handle are. It has 8 bytes.
type entry struct {
	place      place  // while the entry is free, the next free index
	generation uint32 // odd while it is in use, even while it is free
}

// ref is a list's reference to an entry: index·2, plus 1 if the entry is late, which means that its
// deadline had passed when it was scheduled (see scale.tick). Zero refers to nothing, because index
// 0 is not used.
type ref uint32

const maxIndex = math.MaxUint32 >> 1

func newRef(i uint32, late bool) ref {
	r := ref(i << 1)
	if late {
		r |= 1
	}
	return r
}

func (r ref) index() uint32 { return uint32(r >> 1) }
func (r ref) late() bool    { return r&1 != 0 }

// entries is the slab of entries, with a list of the free ones.
type entries struct {
	slab slab[[entryChunk]entry]
	free uint32
}

const entryChunk = 1 << 13 // 64 kB

func newEntries() entries {
	var s entries
	s.slab.extend(0, entryChunk) // index 0 ends the free list
	return s
}

func (s *entries) at(i uint32) *entry {
	return &s.slab.chunks[i/entryChunk][i%entryChunk]
}

// acquire takes the entry that was released last, because it is the most likely to be in a cache.
func (s *entries) acquire() (uint32, *entry) {
	i := s.free
	if i == 0 {
		i = s.slab.extend(maxIndex, entryChunk)
	}
	e := s.at(i)
	s.free = uint32(e.place) // 0 in an entry that was never used
	e.generation++
	return i, e
}

// release makes the entry's handle stale.
func (s *entries) release(i uint32) {
	e := s.at(i)
	e.generation++
	e.place = place(s.free)
	s.free = i
}

func (e *entry) handle(i uint32) Handle {
	return Handle(e.generation)<<32 | Handle(i)
}

// find returns the place of the entry that a handle names; false if the handle is stale, zero or
// invented.
func (s *entries) find(h Handle) (place, bool) {
	i, generation := uint32(h), uint32(h>>32)
	if generation%2 == 0 || i >= s.slab.used {
		return 0, false
	}
	e := s.at(i)
	return e.place, e.generation == generation
}
