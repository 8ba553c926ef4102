// Package timerwheel holds many timers and finds those that are due: a hierarchical timing
// wheel (Varghese and Lauck, 1987) that is exact to its resolution and does not tick.
//
// # Use
//
// The wheel is a data structure without a clock, a lock or a goroutine. Its owner passes it the
// time, and asks it how long to sleep:
//
//	for {
//		at, ok := wheel.Next()
//		… sleep until at, or until there is something to schedule …
//		for wheel.Advance(now(), limit, expire) {
//		}
//	}
//
// Schedule returns a Handle, with which Cancel removes the entry. EvictLatest removes the entries
// with the latest deadlines, for an owner with bounded memory.
//
// Time is an int64 in units of the caller's choice. It is divided into ticks of Config.Resolution,
// counted from Config.Start.
//
// # Promises
//
//   - No entry expires early: a deadline rounds up to a tick.
//   - Entries expire in ascending order of their ticks, and those of one tick in the order in which
//     they were scheduled.
//   - Every int64 is a valid deadline.
//   - An Advance with a limit does a bounded amount of work, however many entries are due.
//   - A Handle that is no longer valid is recognized; it never names another entry (but see Handle).
//
// # What it does not promise
//
// It is not safe for use by several goroutines at once. It does not order the deadlines within one
// tick. It does not return memory.
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
// The wheel has a position, the tick up to which it has worked. Written in base 64, the position
// and the tick of an entry differ first in some digit: that digit is the entry's level, and the
// value of the tick's digit is its slot.
//
//	position  0 · 5 · 17 · 60
//	tick      0 · 5 · 42 ·  3      level 1, slot 42
//
// When the position reaches 0·5·42·0, slot 42 is opened: its entries move down to the slots of
// level 0, by their last digit. There they expire.
//
// Eleven levels hold every possible tick. So there is no list of timers that are too far ahead, no
// horizon and no overflow: next year, the year 2999 and math.MaxInt64 need no special treatment.
//
// # Invariants
//
//  1. An entry in a slot has a tick after position, and its slot follows from the two alone.
//     Thus entries of one tick share a slot, in the order of scheduling, wherever they are.
//  2. Every slot that the position has passed, or that contains it, is empty. Therefore the first
//     bit of the lowest level with a bit is the earliest slot, and no bit needs to be masked off.
//  3. A bit of occupancy is set if and only if its slot has an entry.
//  4. An opened slot is emptied before the next is opened, however many calls that takes.
//     Entries that are scheduled into its span meanwhile are appended behind them.
//  5. position is at most the tick of now, and lags behind it only when Advance had to stop.
//
// The order that Advance promises follows from 1 and 4. From 2 it follows that a year in which
// nothing is due is crossed in one step.
//
// # Costs
//
// Schedule, Cancel, Deadline, Len and Next are O(1). An entry costs one move for each level that it
// moves down, and one expiration. Linux saves those moves by expiring far timers inexactly, which
// pays where most timers are cancelled before they are due. Here nearly all timers expire, and
// must expire on time.
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
// A resolution of 256 to 1024 µs is recommended where some 100 µs do not matter, for example if
// the owner takes its work from the wheel ahead of time: such a minute then ends on level 2.
//
// EvictLatest costs about 0.4 µs an entry, including the scheduling of another one, with a quarter
// of a million entries of which it removes a 64th at a time (BenchmarkEvict). Next, Schedule and
// Advance do nothing for it.
//
// Most of the cost of an entry is waiting for memory: not for every read, but for a read whose
// address comes from the read before it. Such a read takes 160 ns here; independent ones take 2 to
// 11, because the processor has many of them in progress at once. So a list does not link its
// entries. It consists of blocks that contain deadlines and values and are read front to back (see
// block), and its last block is found by a pointer. The value is copied at every move, so it should
// be small.
//
// Some ideas were tried and rejected. Reading ahead, of the next block or of the entries in one,
// gains at most 2 ns, because the processor does that itself. Allocating the 8 bytes of entries by
// slot, so that those due together are adjacent, gains nothing, and slowed a steady load by a fifth
// or more. 512 slots a level save one level of such a minute, and with it 6 ns of expiring, and 5 to
// 15 ns of expiring and scheduling; but scheduling alone takes 2 to 5 ns more, cancelling 6 to 13,
// partly filled slots take six times the memory, and a bitmap no longer fits into a word.
//
// # Memory
//
// An entry takes 8 bytes, plus a 52nd of a block: 37 bytes in all with a value of 16. A block
// is 1,472 bytes then. Each partly filled slot adds up to one block, at most 1 MB in all.
// Cancelling can leave blocks sparse, in the worst case one block for each remaining entry; a block
// is used again once it is empty. Memory is allocated in chunks, never moved, and reused but not
// returned: a wheel keeps the largest size that it ever had. It holds up to 2³¹ entries, in up to
// 2²⁶ blocks.
package timerwheel
