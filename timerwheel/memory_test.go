package timerwheel

import (
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"testing"
	"unsafe"
)

func TestManyEntries(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	w := New[[2]int64](Config{Resolution: 256})
	var sum, expiredSum int64
	handles := make([]Handle, 0, manyEntries/10)
	for i := range int64(manyEntries) {
		deadline := r.Int64N(benchWindow)
		h := w.Schedule([2]int64{i, deadline}, deadline)
		if sum += i; i%10 == 0 {
			handles = append(handles, h)
		}
	}
	if w.Len() != manyEntries {
		t.Fatalf("Len = %d", w.Len())
	}
	for _, h := range handles {
		value, ok := w.Cancel(h)
		if !ok {
			t.Fatalf("handle %x is stale", h)
		}
		sum -= value[0]
	}
	last := int64(-1)
	for w.Len() > 0 {
		at, _ := w.Next()
		for w.Advance(at+10_000, 10_000, func(value [2]int64, deadline int64) {
			tick := (deadline + 255) / 256
			if value[1] != deadline || tick < last || deadline > w.Now() {
				t.Fatalf("entry %d for %d expired at %d, after tick %d", value, deadline, w.Now(), last)
			}
			last = tick
			expiredSum += value[0]
		}) {
		}
	}
	if expiredSum != sum {
		t.Fatal("what expired is not what was scheduled")
	}
}

func TestBytesPerEntry(t *testing.T) {
	const entries = million
	r := rand.New(rand.NewPCG(5, 6))
	before := heapBytes()
	w := New[benchValue](Config{})
	for i := range int64(entries) {
		w.Schedule(benchValue{id: i}, r.Int64N(benchWindow))
	}
	each := float64(heapBytes()-before) / entries
	t.Logf("%.1f bytes an entry", each)
	if each > 40 {
		t.Errorf("%.1f bytes an entry with 16 of value, want at most 40", each)
	}
	runtime.KeepAlive(w)
}

// The slabs do not grow beyond the peak, in whatever order entries are scheduled and removed.
func TestMemoryIsBounded(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	w := New[int](Config{})
	var handles []Handle
	for range 200_000 {
		if len(handles) < 1000 {
			handles = append(handles, w.Schedule(0, w.Now()+r.Int64N(1<<40)))
			continue
		}
		// Keep the oldest entries for a while: they keep blocks that are otherwise empty.
		n := 100 + r.IntN(len(handles)-100)
		w.Cancel(handles[n])
		handles[n] = handles[len(handles)-1]
		handles = handles[:len(handles)-1]
	}
	if w.entries.slab.used > 1001 || w.lists.slab.used > 1000 {
		t.Fatalf("%d entries, %d blocks for 1000 pending", w.entries.slab.used, w.lists.slab.used)
	}
	checkInvariants(t, w)
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	w := New[benchValue](Config{Resolution: 256})
	handles := make([]Handle, 20_000)
	for i := range handles {
		handles[i] = w.Schedule(benchValue{id: int64(i)}, r.Int64N(benchWindow))
	}
	replace := func(value benchValue, deadline int64) {
		handles[value.id] = w.Schedule(value, deadline+1+r.Int64N(benchWindow))
	}
	turn := func() {
		for w.Advance(w.Now()+100_000, 100, replace) {
		}
		for range 10 {
			value, _ := w.Cancel(handles[r.IntN(len(handles))])
			replace(value, w.Now())
		}
	}
	for range 2000 {
		turn()
	}
	if allocs := testing.AllocsPerRun(1000, turn); allocs != 0 {
		t.Fatalf("%v allocations a turn", allocs)
	}
}

// The wheel does not keep removed values alive.
func TestValuesAreReleased(t *testing.T) {
	w := New[*int](Config{})
	for i := range int64(3000) {
		h := w.Schedule(new(int), i)
		if i%2 == 0 {
			w.Cancel(h)
		}
	}
	w.Advance(math.MaxInt64, math.MaxInt, func(*int, int64) {})
	for _, chunk := range w.lists.slab.chunks {
		for _, b := range chunk {
			for _, it := range b.items {
				if it.value != nil {
					t.Fatal("a released block holds on to a value")
				}
			}
		}
	}
}

func TestHoldsPointers(t *testing.T) {
	for value, want := range map[any]bool{
		true: false, int8(1): false, uintptr(1): false, complex(1, 1): false,
		benchValue{}: false, [2]benchValue{}: false, struct{}{}: false, [0]*int{}: false,
		"": true, (*int)(nil): true, unsafe.Pointer(nil): true, (chan int)(nil): true,
		[1]*int{}: true, [1]any{}: true,
		struct {
			_ int
			_ [2]struct{ _ string }
		}{}: true,
	} {
		if got := holdsPointers(reflect.TypeOf(value)); got != want {
			t.Errorf("%T: %t", value, got)
		}
	}
	for _, of := range []reflect.Type{reflect.TypeFor[any](), reflect.TypeFor[[]int](), reflect.TypeFor[func()](), reflect.TypeFor[map[int]int]()} {
		if !holdsPointers(of) {
			t.Errorf("%v holds none", of)
		}
	}
}
