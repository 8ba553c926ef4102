package timerwheel

import (
	"cmp"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
)

// oracle is the simplest possible implementation: a slice that is searched for everything, with
// arithmetic in big numbers. It shares with the wheel only the promised order: ascending by turn,
// and by the order of scheduling within a turn.
type oracle struct {
	start, resolution int64
	now               int64
	entries           []oracleEntry
}

type oracleEntry struct {
	handle   Handle
	value    int
	deadline int64
	tick     uint64 // at which it expires
	turn     uint64 // its tick, or where the wheel was when it was scheduled, if that is later
}

// tick returns the deadline's multiple of the resolution after start, rounded.
func (o *oracle) tick(deadline int64, up bool) uint64 {
	if deadline <= o.start {
		return 0
	}
	distance := new(big.Int).Sub(big.NewInt(deadline), big.NewInt(o.start))
	tick, rest := distance.DivMod(distance, big.NewInt(o.resolution), new(big.Int))
	if up && rest.Sign() > 0 {
		tick.Add(tick, big.NewInt(1))
	}
	return tick.Uint64()
}

func (o *oracle) reached(now int64) uint64 {
	return o.tick(now, now == math.MaxInt64)
}

func (o *oracle) schedule(h Handle, value int, deadline int64, position uint64) {
	tick := o.tick(deadline, deadline > o.now)
	o.entries = append(o.entries, oracleEntry{h, value, deadline, tick, max(tick, position)})
}

// take removes the entry that is to expire first, if one is due by the tick reached.
func (o *oracle) take(reached uint64) (oracleEntry, bool) {
	if len(o.entries) == 0 {
		return oracleEntry{}, false
	}
	first := 0
	for i, e := range o.entries {
		if e.turn < o.entries[first].turn {
			first = i
		}
	}
	e := o.entries[first]
	if e.tick > reached {
		return oracleEntry{}, false
	}
	o.entries = slices.Delete(o.entries, first, first+1)
	return e, true
}

func (o *oracle) due(now int64) bool {
	reached := o.reached(now)
	return slices.ContainsFunc(o.entries, func(e oracleEntry) bool { return e.tick <= reached })
}

// earliest returns the first instant at which an entry may expire.
func (o *oracle) earliest() int64 {
	first := slices.MinFunc(o.entries, func(a, b oracleEntry) int { return cmp.Compare(a.tick, b.tick) })
	at := new(big.Int).SetUint64(first.tick)
	at.Mul(at, big.NewInt(o.resolution)).Add(at, big.NewInt(o.start))
	if !at.IsInt64() {
		return math.MaxInt64
	}
	return max(o.now, at.Int64())
}

// model drives a wheel and an oracle side by side, and compares them at every step.
type model struct {
	t      testing.TB
	wheel  *Wheel[int]
	oracle oracle
	stale  []Handle
	values int
	// left: the latest Advance left something over, which may have been cancelled since.
	left bool
	// expired counts the calls of expire.
	expired int
	checks  int
	// inside, if set, is run by expire.
	inside func()
}

func newModel(t testing.TB, start, resolution int64) *model {
	return &model{
		t:      t,
		wheel:  New[int](Config{Start: start, Resolution: resolution}),
		oracle: oracle{start: start, resolution: max(1, resolution), now: start},
	}
}

func (m *model) schedule(deadline int64) {
	m.values++
	h := m.wheel.Schedule(m.values, deadline)
	m.oracle.schedule(h, m.values, deadline, m.wheel.position)
}

// cancel cancels the n-th of the oracle's entries and tries it a second time.
func (m *model) cancel(n int) {
	m.t.Helper()
	if len(m.oracle.entries) == 0 {
		return
	}
	n %= len(m.oracle.entries)
	e := m.oracle.entries[n]
	m.oracle.entries = slices.Delete(m.oracle.entries, n, n+1)
	if deadline, ok := m.wheel.Deadline(e.handle); !ok || deadline != e.deadline {
		m.t.Fatalf("Deadline = %d, %t, want %d", deadline, ok, e.deadline)
	}
	if value, ok := m.wheel.Cancel(e.handle); !ok || value != e.value {
		m.t.Fatalf("Cancel = %d, %t, want %d", value, ok, e.value)
	}
	m.dead(e.handle)
}

func (m *model) dead(h Handle) {
	m.t.Helper()
	_, timed := m.wheel.Deadline(h)
	_, cancelled := m.wheel.Cancel(h)
	if timed || cancelled {
		m.t.Fatalf("stale handle %x: Deadline %t, Cancel %t", h, timed, cancelled)
	}
	if len(m.stale) < 64 {
		m.stale = append(m.stale, h)
	}
}

func (m *model) advance(now int64, limit int) (more bool) {
	m.t.Helper()
	back := now < m.oracle.now
	m.oracle.now = max(m.oracle.now, now)
	reached := m.oracle.reached(now)
	before := m.expired
	more = m.wheel.Advance(now, limit, func(value int, deadline int64) {
		m.expired++
		switch want, ok := m.oracle.take(reached); {
		case back:
			m.t.Fatalf("Advance(%d), back from %d, expired %d", now, m.oracle.now, deadline)
		case deadline > now:
			m.t.Fatalf("Advance(%d) was early for %d", now, deadline)
		case !ok:
			m.t.Fatalf("Advance(%d) expired %d, want none", now, deadline)
		case value != want.value || deadline != want.deadline:
			m.t.Fatalf("Advance(%d) expired entry %d of %d, want %d of %d", now, value, deadline, want.value, want.deadline)
		default:
			m.dead(want.handle)
		}
		if m.inside != nil {
			m.inside()
		}
	})
	if !back {
		m.left = more
	}
	switch due := m.oracle.due(now); {
	case back && more:
		m.t.Fatalf("Advance(%d), back from %d, reports more", now, m.oracle.now)
	case m.expired-before > max(limit, 0):
		m.t.Fatalf("Advance expired %d, limit %d", m.expired-before, limit)
	case !back && due && !more:
		m.t.Fatalf("Advance(%d, %d) left something over and does not say so", now, limit)
	// Unless the moves were used up: an entry moves at most once a level.
	case !back && !due && more && (len(m.oracle.entries)+m.expired-before)*levelCount < minMoves:
		m.t.Fatalf("Advance(%d, %d) reports more, but nothing is due", now, limit)
	}
	m.check()
	return more
}

// evict evicts the n latest entries and compares them, as a set, with the oracle's: the last n when
// ordered by tick, and by the order of scheduling within a tick.
func (m *model) evict(n int) {
	m.t.Helper()
	order := slices.Clone(m.oracle.entries)
	slices.SortStableFunc(order, func(a, b oracleEntry) int { return cmp.Compare(a.tick, b.tick) })
	want := map[int]oracleEntry{}
	for _, e := range order[len(order)-min(max(n, 0), len(order)):] {
		want[e.value] = e
	}
	m.oracle.entries = slices.DeleteFunc(m.oracle.entries, func(e oracleEntry) bool { _, gone := want[e.value]; return gone })
	m.wheel.EvictLatest(n, func(value int, deadline int64) {
		e, ok := want[value]
		if !ok || e.deadline != deadline {
			m.t.Fatalf("EvictLatest(%d) evicted %d of %d, which is not among the latest, or twice", n, value, deadline)
		}
		delete(want, value)
		m.dead(e.handle)
	})
	if len(want) > 0 {
		m.t.Fatalf("EvictLatest(%d) left %d of the latest", n, len(want))
	}
	checkInvariants(m.t, m.wheel)
}

// step does what an owner does: sleep until Next, advance.
func (m *model) step(limit int) {
	m.t.Helper()
	if at, ok := m.wheel.Next(); ok {
		before, position, pendingEnd := m.expired, m.wheel.position, m.wheel.pendingEnd
		m.advance(at, limit)
		if limit > 0 && m.expired == before && m.wheel.position == position && m.wheel.pendingEnd == pendingEnd {
			m.t.Fatalf("Advance(%d) to Next made no progress", at)
		}
	}
}

func (m *model) check() {
	m.t.Helper()
	if m.wheel.Len() != len(m.oracle.entries) || m.wheel.Now() != m.oracle.now {
		m.t.Fatalf("Len %d, Now %d, want %d, %d", m.wheel.Len(), m.wheel.Now(), len(m.oracle.entries), m.oracle.now)
	}
	at, ok := m.wheel.Next()
	if ok != (len(m.oracle.entries) > 0) {
		m.t.Fatalf("Next = %t with %d entries", ok, len(m.oracle.entries))
	}
	if ok {
		earliest := m.oracle.earliest()
		if at > earliest {
			m.t.Fatalf("Next = %d overshoots %d", at, earliest)
		}
		if at < m.oracle.now || at == m.oracle.now && !m.left && !m.oracle.due(m.oracle.now) {
			m.t.Fatalf("Next = %d is not after now, %d", at, m.oracle.now)
		}
	}
	for _, h := range m.stale {
		if _, ok := m.wheel.Deadline(h); ok {
			m.t.Fatalf("handle %x has come back to life", h)
		}
	}
	if m.checks++; m.checks%8 == 0 { // it looks at every slot
		checkInvariants(m.t, m.wheel)
	}
}

// drain lets everything expire, and leaves nothing behind.
func (m *model) drain() {
	m.t.Helper()
	m.inside = nil
	for m.advance(math.MaxInt64, 7) {
	}
	checkInvariants(m.t, m.wheel)
	if m.wheel.Len() != 0 {
		m.t.Fatalf("%d entries never expired", m.wheel.Len())
	}
}

// checkInvariants checks the invariants of doc.go on the whole structure.
func checkInvariants[T any](t testing.TB, w *Wheel[T]) {
	t.Helper()
	live := 0
	for list := range uint32(listCount) {
		count := 0
		for n := w.lists.heads[list].next; n != list; n = w.lists.block(n).next {
			b := w.lists.block(n)
			if b.start.block() != n || w.lists.link(b.next).prev != n || w.lists.link(b.prev).next != n {
				t.Fatalf("block %d of list %d is linked badly", n, list)
			}
			inBlock := 0
			for k := b.first; k < b.used; k++ {
				r := b.refs[k]
				if r == 0 {
					continue
				}
				inBlock++
				e := w.entries.at(r.index())
				if e.place != newPlace(n, k) || e.generation%2 == 0 {
					t.Fatalf("entry %d on list %d does not know its place", r.index(), list)
				}
				tick := w.scale.tick(b.items[k].deadline, r.late())
				if list != pending && (tick <= w.position || slotFor(w.position, tick) != list) {
					t.Fatalf("tick %d is in slot %d at position %d", tick, list, w.position)
				}
				if list == pending && tick > w.pendingEnd {
					t.Fatalf("tick %d is pending, which ends at %d", tick, w.pendingEnd)
				}
			}
			if inBlock == 0 || inBlock != int(b.live) {
				t.Fatalf("block %d of list %d has %d live refs, counts %d", n, list, inBlock, b.live)
			}
			count += inBlock
		}
		if tail := w.lists.tails[list]; tail != w.lists.full && tail != w.lists.block(w.lists.heads[list].prev) ||
			tail == w.lists.full && count > 0 && w.lists.block(w.lists.heads[list].prev).used < blockLen {
			t.Fatalf("list %d has a wrong tail", list)
		}
		if list != pending {
			marked := w.lists.occupied.slots[list/digits]>>(list%digits)&1 == 1
			if marked != (count > 0) {
				t.Fatalf("slot %d has %d entries, bit %t", list, count, marked)
			}
		}
		live += count
	}
	for level, slots := range w.lists.occupied.slots {
		if (slots != 0) != (w.lists.occupied.levels>>level&1 == 1) {
			t.Fatalf("level %d has slots %b, levels %b", level, slots, w.lists.occupied.levels)
		}
	}
	if live != w.len {
		t.Fatalf("%d entries on lists, Len %d", live, w.len)
	}
	if w.lists.empty(pending) && w.pendingEnd != w.position {
		t.Fatalf("nothing pending, but until %d at position %d", w.pendingEnd, w.position)
	}
}

// randomDeadline is any distance from now with the same likelihood for every magnitude, and
// now and then close before or after a boundary between slots.
func randomDeadline(r *rand.Rand, now int64) int64 {
	switch r.IntN(20) {
	case 0:
		return now
	case 1:
		return int64(r.Uint64()) // anywhere
	case 2:
		return cmp.Or(int64(math.MaxInt64)-r.Int64N(3), now)
	case 3:
		return now - r.Int64N(1<<r.IntN(63)) // may wrap round: anywhere again
	case 4:
		boundary := int64(1) << (digitBits * (1 + r.IntN(6)))
		return (now/boundary+1)*boundary - 1 + r.Int64N(3)
	default:
		return now + r.Int64N(1<<r.IntN(30))
	}
}

func TestOracle(t *testing.T) {
	starts := []int64{0, 1, -1, 63, -1_000_000_007, 1_800_000_000_000_000, math.MinInt64, math.MaxInt64 - 5000}
	resolutions := []int64{0, 1, 2, 7, 64, 1000, 1024, 1 << 40, math.MaxInt64}
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 0))
		start, resolution := starts[r.IntN(len(starts))], resolutions[r.IntN(len(resolutions))]
		if seed%2 == 0 {
			start, resolution = starts[r.IntN(6)], resolutions[r.IntN(6)]
		}
		t.Run(fmt.Sprintf("seed=%d/start=%d/resolution=%d", seed, start, resolution), func(t *testing.T) {
			randomOps(newModel(t, start, resolution), r, 300)
		})
	}
}

func randomOps(m *model, r *rand.Rand, ops int) {
	m.t.Helper()
	jumpBits := []int{12, 30, 62}[r.IntN(3)]
	m.inside = func() {
		switch r.IntN(8) {
		case 0:
			m.schedule(randomDeadline(r, m.oracle.now))
		case 1:
			m.cancel(r.Int())
		case 2:
			m.evict(r.IntN(5))
		}
	}
	for range ops {
		now := m.oracle.now
		switch r.IntN(13) {
		case 12:
			m.evict(r.IntN(1 << r.IntN(8)))
			m.check()
		case 0, 1, 2, 3:
			for range 1 + r.IntN(30) {
				m.schedule(randomDeadline(r, now))
			}
		case 4:
			m.cancel(r.Int())
		case 5: // the same instant often: order within a tick, blocks that fill
			deadline := now + r.Int64N(1<<r.IntN(20))
			for range r.IntN(60) {
				m.schedule(deadline)
			}
		case 6:
			ahead := r.Int64N(1 << r.IntN(jumpBits))
			m.advance(now+min(ahead, math.MaxInt64-max(now, 0)), r.IntN(10))
		case 7:
			m.advance(now-r.Int64N(1<<20), 10) // back, or at MinInt64 to the end of time
		case 8:
			m.advance(now, r.IntN(3))
		default:
			m.step(r.IntN(20))
		}
	}
	m.drain()
}
