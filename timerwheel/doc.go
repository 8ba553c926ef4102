// Package timerwheel holds many timers and finds those that are due: a hierarchical timing
// wheel (Varghese and Lauck, 1987) that is exact to its resolution and does not tick.
//
// It is a pure data structure, without a clock, a lock or a goroutine. Its owner says what
// time it is, and asks how long it may sleep:
//
//	for {
//		at, ok := wheel.Next()
//		… sleep until at, or until there is something to schedule …
//		for wheel.Advance(now(), limit, expire) {
//		}
//	}
//
// Time is an int64 in units of the caller's choice. It is cut into ticks of Config.Resolution,
// counted from Config.Start, and a deadline rounds up to a tick: no entry expires early.
//
// # Levels
//
// Each level has 64 slots, and each of its slots spans a whole level below. With a unit of
// 1 µs and a resolution of 256:
//
//	level  a slot spans   the level spans
//	    0        256 µs           16.4 ms
//	    1       16.4 ms            1.05 s
//	    2        1.05 s            67.1 s
//	    3        67.1 s            71.6 min
//	    4       71.6 min           76.4 h
//	    5       76.4 h            204 days
//	    6        204 days         35.7 years
//	    7       35.7 years       2,285 years
//	 8–10       …                 what is left of 64 bits
//
// The wheel stands at a position, the tick up to which it has worked. Written in base 64, the
// position and the tick of an entry differ first in some digit: that digit is the entry's
// level, and the value of the tick's digit is its slot.
//
//	position  0 · 5 · 17 · 60
//	tick      0 · 5 · 42 ·  3      level 1, slot 42
//
// When the position comes to 0·5·42·0, slot 42 is opened: its entries go down to the slots
// of level 0, by their last digit. There they expire.
//
// Eleven levels hold any tick there is. So there is no list of timers too far ahead, no
// horizon and no overflow: next year, the year 2999 and math.MaxInt64 are levels like others.
//
// # Invariants
//
//  1. An entry in a slot has a tick after position, and its slot follows from the two alone.
//     Thus entries of one tick share a slot, in the order of scheduling, wherever they are.
//  2. A slot that the position has passed or is in is empty. Therefore the first bit of the
//     lowest level with a bit is the earliest slot, and no bit needs to be masked off.
//  3. A bit of occupancy is set if and only if its slot has an entry.
//  4. An opened slot is emptied before the next is opened, however many calls that takes.
//     What is scheduled into its span meanwhile queues behind it.
//  5. position is at most the tick of now, and lags behind it only when Advance had to stop.
//
// From 1 and 4 follows the order that Advance promises, from 2 that crossing a year in which
// nothing is due is a step like any other.
//
// # Costs
//
// Schedule, Cancel, Get, Deadline, Len and Next are O(1). An entry costs one move for each
// level it goes down, and one expiration. Linux' timers save those moves by expiring far
// timers inexactly, which pays where most timers are cancelled before they are due. Here all
// of them fire, and are to fire on time.
//
// Measured with a million entries at random in the next minute of microseconds and values of
// 16 bytes, on two shared cores of a virtual EPYC, where a read of main memory takes 160 ns.
// container/heap ran in the same process; only the ratios mean much elsewhere. Nanoseconds an
// entry, medians of three runs, which differ by up to a quarter (wheel_bench_test.go):
//
//	                     heap   resolution 1     64    256   1024
//	schedule               98             17     21     27     24
//	expire                823            122    105     84     91
//	expire + schedule     984            158    138    134    114
//	cancel                157             27     27     36     32
//
// At ten million, with 1024 and in one run each: schedule 16 (heap 91), expire 125 (1,908), both 174 (1,652).
//
// A resolution of 256 to 1024 µs is recommended where some 100 µs do not matter, as for an
// owner that takes work in ahead of its time: such a minute ends on level 2.
//
// What an entry costs is waiting for memory. Hence lists are not made of linked entries, but
// of blocks that have deadline and value in them and are read front to back (see block). The
// value is copied at every move, and should be small.
//
// # Memory
//
// An entry takes 8 bytes, plus a 52nd of a block: 37 bytes in all with a value of 16. A block
// is 1,472 bytes then. Slots that are filled in part add up to one each, at most 1 MB in all.
// Cancelling can leave blocks sparse, at the very worst one for each entry remaining; a block
// is used again once it is empty. Memory is taken in chunks, never moved, and reused but not
// returned: a wheel is as large as it ever was. It holds up to 2³¹ entries, in up to 2²⁶
// blocks.
package timerwheel
