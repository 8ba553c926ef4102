package timerwheel

import (
	"math"
	"slices"
	"testing"
)

// advance returns the deadlines that an Advance expires.
func advance(w *Wheel[int], now int64, limit int) (deadlines []int64, more bool) {
	more = w.Advance(now, limit, func(_ int, deadline int64) { deadlines = append(deadlines, deadline) })
	return deadlines, more
}

func wantExpired(t *testing.T, w *Wheel[int], now int64, want ...int64) {
	t.Helper()
	got, more := advance(w, now, math.MaxInt)
	if !slices.Equal(got, want) || more {
		t.Fatalf("Advance(%d) expired %v, more %t, want %v", now, got, more, want)
	}
	checkInvariants(t, w)
}

func wantNext(t *testing.T, w *Wheel[int], want int64) {
	t.Helper()
	if at, ok := w.Next(); !ok || at != want {
		t.Fatalf("Next = %d, %t, want %d", at, ok, want)
	}
}

func TestEmpty(t *testing.T) {
	w := New[int](Config{})
	if at, ok := w.Next(); ok || w.Len() != 0 || w.Now() != 0 {
		t.Fatalf("Next = %d, %t, Len %d, Now %d", at, ok, w.Len(), w.Now())
	}
	wantExpired(t, w, math.MaxInt64)
	if w.Now() != math.MaxInt64 {
		t.Fatalf("Now = %d", w.Now())
	}
}

// Deadlines around every boundary of every level, from positions around every boundary.
func TestLevelBoundaries(t *testing.T) {
	var instants []int64
	for shift := digitBits; shift < 63; shift += digitBits {
		for _, slot := range []int64{1, 2, 62, 63} {
			if boundary := slot << shift; boundary>>shift == slot {
				instants = append(instants, boundary-1, boundary, boundary+1)
			}
		}
	}
	slices.Sort(instants)
	for _, from := range append([]int64{0}, instants...) {
		m := newModel(t, 0, 1)
		m.advance(from, 0)
		for _, deadline := range instants {
			m.schedule(deadline)
			m.schedule(deadline)
		}
		for m.wheel.Len() > 0 {
			m.step(3)
		}
	}
}

// The only occupied slot is entered from every other slot: the digits wrap around.
func TestSlots(t *testing.T) {
	for from := range int64(digits) {
		for to := range int64(2 * digits) {
			w := New[int](Config{Start: from})
			w.Schedule(0, to)
			wantNext(t, w, max(from, to))
			if from < to {
				wantExpired(t, w, to-1)
			}
			wantExpired(t, w, max(from, to), to)
		}
	}
}

func TestDueAtOnce(t *testing.T) {
	for _, resolution := range []int64{1, 7, 64} {
		w := New[int](Config{Start: -3, Resolution: resolution})
		wantExpired(t, w, 100)
		past := []int64{100, 99, -3, -4, math.MinInt64, 100, 98}
		for _, deadline := range past {
			w.Schedule(0, deadline)
		}
		wantNext(t, w, 100)
		wantExpired(t, w, 100, past...)
	}
}

func TestResolutionRoundsUp(t *testing.T) {
	tests := []struct{ start, resolution, deadline, at int64 }{
		{0, 10, 1, 10},
		{0, 10, 10, 10},
		{0, 10, 11, 20},
		{5, 10, 11, 15},
		{5, 10, 16, 25},
		{-7, 10, -6, 3},
		{-7, 10, 3, 3},
		{0, 64, 64, 64},
		{0, 64, 65, 128},
		{1, 64, 65, 65},
		{0, -5, 3, 3},
		{0, 1 << 40, 1, 1 << 40},
		{0, 1000, math.MaxInt64, math.MaxInt64}, // its multiple is beyond the end of time
		{math.MinInt64, 1, math.MaxInt64, math.MaxInt64},
		{math.MinInt64, 3, math.MaxInt64, math.MaxInt64},
		{math.MinInt64, math.MaxInt64, math.MaxInt64, math.MaxInt64},
		{math.MaxInt64 - 1, math.MaxInt64, math.MaxInt64, math.MaxInt64},
	}
	for _, tt := range tests {
		w := New[int](Config{Start: tt.start, Resolution: tt.resolution})
		w.Schedule(0, tt.deadline)
		wantNext(t, w, tt.at)
		wantExpired(t, w, tt.at-1)
		wantNext(t, w, tt.at)
		wantExpired(t, w, tt.at, tt.deadline)
	}
}

// A deadline that rounds up past now is not due yet. A deadline that had passed when it was
// scheduled is due, although it lies at the same multiple.
func TestRoundingOfThePast(t *testing.T) {
	w := New[int](Config{Resolution: 64})
	w.Schedule(0, 90)
	wantExpired(t, w, 100)
	w.Schedule(0, 91)
	wantExpired(t, w, 100, 91)
	wantNext(t, w, 128)
	wantExpired(t, w, 128, 90)
}

func TestFarFuture(t *testing.T) {
	const year = 365 * 24 * 3600 * 1_000_000
	now := int64(1_800_000_000_000_000) // in 2027
	deadlines := []int64{now + year, now + 974*year, math.MaxInt64 - 1, math.MaxInt64}
	w := New[int](Config{Start: now, Resolution: 256})
	for i := range deadlines {
		w.Schedule(0, deadlines[len(deadlines)-1-i])
	}
	wantExpired(t, w, deadlines[0]-1)
	wantExpired(t, w, deadlines[0]+255, deadlines[0])
	wantExpired(t, w, deadlines[1]-1)
	wantExpired(t, w, deadlines[1]+255, deadlines[1])
	wantExpired(t, w, math.MaxInt64-1)
	wantExpired(t, w, math.MaxInt64, math.MaxInt64, math.MaxInt64-1) // one tick: as scheduled
	w.Schedule(0, math.MaxInt64)
	wantExpired(t, w, math.MaxInt64, math.MaxInt64)
}

// A single entry in a slot needs no intermediate step on its way down; several need one for each
// level.
func TestNextHaltsAtLevels(t *testing.T) {
	w := New[int](Config{})
	w.Schedule(0, 5000)
	wantNext(t, w, 5000)
	h := w.Schedule(0, 5001)
	wantNext(t, w, 4096)
	wantExpired(t, w, 4096)
	wantNext(t, w, 4992)
	w.Cancel(h)
	wantNext(t, w, 5000)
	wantExpired(t, w, 5000, 5000)
}

func TestOrder(t *testing.T) {
	w := New[int](Config{Resolution: 10})
	for _, deadline := range []int64{50, 45, 5, 47, 700, 41, 12} {
		w.Schedule(0, deadline)
	}
	wantExpired(t, w, 1000, 5, 12, 50, 45, 47, 41, 700)
}

func TestLimit(t *testing.T) {
	w := New[int](Config{})
	for _, deadline := range []int64{10, 10, 20, 30} {
		w.Schedule(0, deadline)
	}
	wantMore := func(limit int, wantMore bool, want ...int64) {
		t.Helper()
		if got, more := advance(w, 25, limit); !slices.Equal(got, want) || more != wantMore {
			t.Fatalf("limit %d expired %v, more %t, want %v, %t", limit, got, more, want, wantMore)
		}
	}
	wantMore(0, true)
	wantMore(-1, true)
	wantMore(1, true, 10)
	wantNext(t, w, 25)
	w.Schedule(0, 15) // between what is left over
	w.Schedule(0, 3)  // before it
	wantMore(1, true, 10)
	wantMore(2, true, 3, 15)
	wantMore(1, false, 20)
	wantMore(0, false)
	wantNext(t, w, 30)
}

func TestBackwards(t *testing.T) {
	w := New[int](Config{})
	w.Schedule(0, 80)
	w.Schedule(0, 90)
	if got, more := advance(w, 100, 1); len(got) != 1 || !more {
		t.Fatalf("expired %v, more %t", got, more)
	}
	w.Schedule(0, 95)
	w.Schedule(0, 10)
	for _, now := range []int64{99, 85, 0, -1, math.MinInt64} {
		wantExpired(t, w, now)
		wantNext(t, w, 100)
	}
	if w.Now() != 100 || w.Len() != 3 {
		t.Fatalf("Now %d, Len %d", w.Now(), w.Len())
	}
	wantExpired(t, w, 100, 90, 10, 95) // the wheel was at 90 when 10 came
}

// A slot with more entries than an Advance moves is processed in parts, in order, including entries
// that are scheduled and cancelled in between.
func TestBoundedCascade(t *testing.T) {
	const entries, deadline = 3*minMoves + 5, 1_000_003
	w := New[int](Config{})
	var handles []Handle
	for i := range entries {
		handles = append(handles, w.Schedule(i, deadline))
	}
	calls := 0
	for {
		at, _ := w.Next()
		if at == deadline {
			break
		}
		got, more := advance(w, at, 1)
		if len(got) != 0 || more != (at == w.Now() && !w.lists.empty(pending)) {
			t.Fatalf("Advance(%d) expired %v, more %t", at, got, more)
		}
		if calls++; calls%4 == 1 && !more {
			t.Fatal("the slot went down in one go")
		}
		if more && len(handles) < entries+2 {
			handles = append(handles, w.Schedule(len(handles), deadline))
		}
		checkInvariants(t, w)
	}
	if calls != 4*3 { // 1 000 003 is on level 3
		t.Fatalf("%d calls, want 4 for each of 3 levels", calls)
	}
	w.Cancel(handles[1])
	want := 0
	for w.Advance(deadline, 1000, func(value int, _ int64) {
		if want == 1 {
			want++
		}
		if value != want {
			t.Fatalf("expired %d, want %d", value, want)
		}
		want++
	}) {
	}
	if want != len(handles) {
		t.Fatalf("%d expired, want %d", want, len(handles))
	}
}

func TestStaleHandles(t *testing.T) {
	w := New[int](Config{})
	wantStale := func(handles ...Handle) {
		t.Helper()
		for _, h := range handles {
			_, timed := w.Deadline(h)
			_, cancelled := w.Cancel(h)
			if timed || cancelled {
				t.Fatalf("handle %x is alive", h)
			}
		}
	}
	wantStale(0, 1, math.MaxUint64, 1<<32, 1<<32|1, 3<<32|math.MaxUint32)

	expired := w.Schedule(1, 1)
	wantExpired(t, w, 1, 1)
	wantStale(expired)

	cancelled := w.Schedule(2, 5)
	if uint32(cancelled) != uint32(expired) {
		t.Fatal("the released entry was not reused")
	}
	w.Cancel(cancelled)
	wantStale(expired, cancelled)

	alive := w.Schedule(3, 5)
	wantStale(expired, cancelled)
	if deadline, ok := w.Deadline(alive); !ok || deadline != 5 {
		t.Fatalf("Deadline = %d, %t", deadline, ok)
	}
	if value, ok := w.Cancel(alive); !ok || value != 3 {
		t.Fatalf("Cancel = %d, %t", value, ok)
	}
}

func TestExpireSchedulesAndCancels(t *testing.T) {
	w := New[int](Config{})
	var order []int
	first := w.Schedule(1, 10)
	second := w.Schedule(2, 10)
	w.Schedule(3, 10)
	third := w.Schedule(4, 15)
	more := w.Advance(100, 6, func(value int, deadline int64) {
		order = append(order, value)
		if value != 1 {
			return
		}
		if _, ok := w.Cancel(first); ok || w.Len() != 3 {
			t.Errorf("own handle is alive, Len %d", w.Len())
		}
		w.Cancel(second)
		w.Cancel(third)
		w.Schedule(5, 5)   // late: the end of this tick
		w.Schedule(6, 12)  // ahead of the wheel, though before now
		w.Schedule(7, 101) // not due
		w.Schedule(8, 100)
		w.Schedule(9, 12)
	})
	if want := []int{1, 3, 5, 6, 9, 8}; !slices.Equal(order, want) || more {
		t.Fatalf("expired %v, more %t, want %v", order, more, want)
	}
	wantNext(t, w, 101)

	// The limit ends an expire that reschedules itself for ever.
	calls := 0
	again := func(value int, deadline int64) {
		calls++
		w.Schedule(value, deadline)
	}
	if !w.Advance(101, 1000, again) || calls != 1000 || w.Len() != 1 {
		t.Fatalf("%d calls, Len %d", calls, w.Len())
	}
}

// A nested Advance expires everything that is due, and leaves nothing to the outer one.
func TestExpireAdvances(t *testing.T) {
	w := New[int](Config{})
	for _, deadline := range []int64{10, 10, 20, 100, 5000, 5001} {
		w.Schedule(0, deadline)
	}
	var outer, inner []int64
	more := w.Advance(50, 10, func(_ int, deadline int64) {
		outer = append(outer, deadline)
		inner, _ = advance(w, 4999, 10)
	})
	if !slices.Equal(outer, []int64{10}) || !slices.Equal(inner, []int64{10, 20, 100}) || more {
		t.Fatalf("outer %v, inner %v, more %t", outer, inner, more)
	}
	checkInvariants(t, w)
	wantExpired(t, w, 5000, 5000)
	wantExpired(t, w, 5001, 5001)
}

func TestExpirePanics(t *testing.T) {
	w := New[int](Config{})
	for deadline := range int64(3) {
		w.Schedule(0, deadline+1)
	}
	func() {
		defer func() { _ = recover() }()
		w.Advance(10, 10, func(int, int64) { panic("expire") })
	}()
	wantNext(t, w, 10)
	wantExpired(t, w, 10, 2, 3)
}
