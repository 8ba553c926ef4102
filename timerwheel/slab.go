package timerwheel

// slab holds elements by index, in chunks of type C, which are arrays of them. It grows by whole
// chunks and never moves an element: growing costs no copy, and old and new memory are never held
// at once. It does not shrink. The owner links released elements into a list of free ones.
//
// Indexes instead of pointers halve the size of the links, and give the garbage collector nothing
// to follow if the value contains no pointers. Chunks are large enough for the table of them to
// stay in a cache, because every access reads it.
type slab[C any] struct {
	chunks []*C
	used   uint32 // indexes below it have been used at least once
}

// extend returns the next index that was never used, up to limit. Its element is zero.
func (s *slab[C]) extend(limit, chunkLen uint32) uint32 {
	i := s.used
	if i > limit {
		panic("timerwheel: more entries pending than there are indexes")
	}
	if int(i/chunkLen) == len(s.chunks) {
		s.chunks = append(s.chunks, new(C))
	}
	s.used++
	return i
}
