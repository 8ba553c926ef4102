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
// 16 bytes, on two shared cores of a virtual EPYC. All ran in the same process; only the
// ratios mean much elsewhere. Nanoseconds an entry, medians of three runs, which differ by up
// to a quarter (wheel_bench_test.go; AfterFunc is Go's own timer, thw the hashed wheel of
// nats-server, since then in lab/internal/wheelbench; contenders_test.go and nats_test.go say
// what of them compares):
//
//	                     heap    thw  AfterFunc   resolution 1     64    256   1024
//	schedule               74    113        182             15     16     17     16
//	expire                724     28¹         –             86     63     44     40
//	expire + schedule     830      –          –            102     76     66     60
//	cancel                127    170         44             26     26     35     27
//	bytes an entry         41     35²       136             37     37     37     36
//
//	¹ in no order, and all at once  ² with values of 8 bytes
//
// At ten million, with 256 and in one run each: schedule 12 (heap 131), expire 70 (1,309),
// both 116 (1,583), cancel 35 (187). TestCheaperThanHeap watches over the ratio to the heap.
//
// A resolution of 256 to 1024 µs is recommended where some 100 µs do not matter, as for an
// owner that takes work in ahead of its time: such a minute ends on level 2.
//
// EvictLatest takes the far end away, for an owner with bounded memory. It costs about 0.4 µs
// an entry, with the scheduling of another, at a quarter of a million of which it takes a 64th
// at a time (BenchmarkEvict); Next, Schedule and Advance don't know of it.
//
// What an entry costs is waiting for memory: not for every read, but for one whose address is
// in the one before. Such a read takes 160 ns here; independent ones take 2 to 11, since many
// are under way at once. Hence lists are not made of linked entries, but of blocks that have
// deadline and value in them and are read front to back (see block), and a list's last block
// is found by pointer. The value is copied at every move, and should be small.
//
// Some things were tried and left out. Reading ahead, of the next block or of the entries in
// one, gains 2 ns at best: the processor does that. Handing out the 8 bytes of entries by
// slot, so that those due together lie together, gains nothing, and slowed a steady load by a
// fifth or more. 512 slots a level save a level of such a minute, and with it 6 ns of
// expiring and 5 to 15 of both; but scheduling alone takes 2 to 5 more, cancelling 6 to 13,
// slots filled in part six times the memory, and a bitmap no longer fits a word.
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
