package timerwheel

import (
	"math"
	"math/bits"
)

// scale converts between the caller's units and the wheel's ticks: tick n is the instant
// start + n·resolution. Ticks are unsigned, so that the distance from any int64 start to any
// later int64 has one.
type scale struct {
	start      int64
	resolution uint64
	shift      int // resolution is 1<<shift, or −1 where it is no power of two
}

func newScale(start, resolution int64) scale {
	s := scale{start: start, resolution: uint64(max(resolution, 1)), shift: -1}
	if s.resolution&(s.resolution-1) == 0 {
		s.shift = bits.TrailingZeros64(s.resolution)
	}
	return s
}

// tick returns the tick with which a deadline expires. Deadlines round up, so they are never early.
//
// A deadline that had passed when it was scheduled rounds down instead. It is not early either,
// because the tick of a passed instant has passed itself, and it need not wait for the next tick.
func (s *scale) tick(deadline int64, late bool) uint64 {
	switch {
	case deadline <= s.start:
		return 0
	case late:
		return s.ticks(uint64(deadline) - uint64(s.start))
	default:
		return s.ticks(uint64(deadline)-uint64(s.start)-1) + 1
	}
}

// reached returns the last tick that has passed at now, which must not be before start. The largest
// int64 passes every tick, even the one beyond it to which the deadlines just before it round up.
func (s *scale) reached(now int64) uint64 {
	return s.tick(now, now != math.MaxInt64)
}

// instant is the inverse: the earliest now that has reached the tick.
func (s *scale) instant(tick uint64) int64 {
	if tick > s.tick(math.MaxInt64, true) {
		return math.MaxInt64
	}
	return int64(uint64(s.start) + tick*s.resolution)
}

func (s *scale) ticks(units uint64) uint64 {
	if s.shift >= 0 {
		return units >> (s.shift & 63)
	}
	return units / s.resolution
}
