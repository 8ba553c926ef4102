package timerwheel

// slab holds elements by index, in chunks C that are arrays of them. It grows by whole chunks
// and never moves an element, so that growing costs neither a copy nor a moment in which old
// and new are both held. It does not shrink. What is released its owner links into a free
// list.
//
// Indexes instead of pointers halve the links, and leave the garbage collector nothing to
// follow when the value holds no pointers. Chunks are large enough for the table of them to
// stay in a cache: it is looked up at every access.
type slab[C any] struct {
	chunks []*C
	used   uint32 // indexes below have been handed out at least once
}

// extend hands out the next index that never was, up to limit, its element zero.
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
