package timerwheel

import (
	"fmt"
	"math"
	"testing"
)

// Where in a run of three blocks something happens.
var blockPositions = []int{0, 1, blockLen - 2, blockLen - 1, blockLen, 2*blockLen - 1, 2 * blockLen, 3*blockLen - 1}

// blockDeadlines are on level 0, where blocks expire as they are; on higher levels; and in the last
// case at the first tick of a higher slot, where due entries and entries that have to move down are
// on one list.
var blockDeadlines = []int64{10, 100, 5000, 4096}

// What expire does to entries of its own block and of those behind.
func TestExpireMeetsItsBlock(t *testing.T) {
	tests := map[string]func(m *model, deadline int64){
		"cancel the next":     func(m *model, _ int64) { m.cancel(0) },
		"cancel the last":     func(m *model, _ int64) { m.cancel(len(m.oracle.entries) - 1) },
		"cancel a block":      func(m *model, _ int64) { m.cancelFirst(blockLen) },
		"cancel two blocks":   func(m *model, _ int64) { m.cancelFirst(2 * blockLen) },
		"cancel all":          func(m *model, _ int64) { m.cancelFirst(3 * blockLen) },
		"late":                func(m *model, deadline int64) { m.schedule(deadline); m.schedule(deadline - 1) },
		"late and later":      func(m *model, deadline int64) { m.schedule(deadline); m.schedule(deadline + 1) },
		"cancel all and late": func(m *model, deadline int64) { m.cancelFirst(3 * blockLen); m.schedule(deadline) },
	}
	for name, act := range tests {
		for _, deadline := range blockDeadlines {
			for _, at := range blockPositions {
				t.Run(fmt.Sprintf("%s/deadline=%d/at=%d", name, deadline, at), func(t *testing.T) {
					m := newModel(t, 0, 1)
					for range 3 * blockLen {
						m.schedule(deadline)
					}
					m.schedule(deadline + 2)
					m.inside = func() {
						if m.expired == at+1 {
							act(m, deadline)
							checkInvariants(t, m.wheel)
						}
					}
					m.advance(deadline, math.MaxInt)
					m.drain()
				})
			}
		}
	}
}

// cancelFirst cancels up to n entries, in the order of scheduling.
func (m *model) cancelFirst(n int) {
	m.t.Helper()
	for range min(n, len(m.oracle.entries)) {
		m.cancel(0)
	}
}

// A limit, a panic and a nested Advance in the middle of a block leave its other entries alive and
// in order.
func TestStopWithinBlock(t *testing.T) {
	const entries = 3 * blockLen
	type run struct {
		*Wheel[int]
		handles  []Handle
		deadline int64
		next     int // the value to expire
	}
	expire := func(t *testing.T, r *run, value int) {
		t.Helper()
		if value != r.next {
			t.Fatalf("%d expired, want %d", value, r.next)
		}
		r.next++
		for i, h := range r.handles {
			if _, alive := r.Deadline(h); alive != (i > value) {
				t.Fatalf("while %d expires, Deadline of %d says %t", value, i, alive)
			}
		}
		if r.Len() != entries-r.next {
			t.Fatalf("while %d expires, Len = %d", value, r.Len())
		}
	}
	stops := map[string]func(t *testing.T, r *run, at int){
		"limit": func(t *testing.T, r *run, at int) {
			more := r.Advance(r.deadline, at+1, func(value int, _ int64) { expire(t, r, value) })
			if r.next != at+1 || more != (r.Len() > 0) {
				t.Fatalf("%d expired, more %t", r.next, more)
			}
		},
		"panic": func(t *testing.T, r *run, at int) {
			defer func() {
				if recovered := recover(); recovered != "stop" {
					t.Fatalf("recovered %v", recovered)
				}
			}()
			r.Advance(r.deadline, math.MaxInt, func(value int, _ int64) {
				expire(t, r, value)
				if value == at {
					panic("stop")
				}
			})
		},
		"advance": func(t *testing.T, r *run, at int) {
			r.Advance(r.deadline, math.MaxInt, func(value int, _ int64) {
				expire(t, r, value)
				if value == at {
					r.Advance(r.deadline+1, blockLen+1, func(value int, _ int64) { expire(t, r, value) })
				}
			})
		},
	}
	for name, stop := range stops {
		for _, deadline := range blockDeadlines {
			for _, at := range blockPositions {
				t.Run(fmt.Sprintf("%s/deadline=%d/at=%d", name, deadline, at), func(t *testing.T) {
					r := &run{Wheel: New[int](Config{}), deadline: deadline}
					for i := range entries {
						r.handles = append(r.handles, r.Schedule(i, deadline))
					}
					stop(t, r, at)
					checkInvariants(t, r.Wheel)
					r.Advance(deadline+1, math.MaxInt, func(value int, _ int64) { expire(t, r, value) })
					if r.next != entries {
						t.Fatalf("%d expired", r.next)
					}
					checkInvariants(t, r.Wheel)
				})
			}
		}
	}
}

// When a list's last block has been released, the list goes on with a new block, even if the block
// before has room because of cancellations.
func TestLastBlockGone(t *testing.T) {
	for _, deadline := range blockDeadlines {
		m := newModel(t, 0, 1)
		fill := func(n int) {
			for range n {
				m.schedule(deadline)
			}
			checkInvariants(t, m.wheel)
		}
		fill(blockLen + 3)
		m.cancel(3)
		for range 3 {
			m.cancel(len(m.oracle.entries) - 1)
		}
		fill(2)
		m.cancelFirst(2 * blockLen) // the slot is empty
		checkInvariants(t, m.wheel)
		if _, ok := m.wheel.Next(); ok {
			t.Fatal("Next of an empty wheel")
		}
		fill(1)
		m.advance(deadline-1, 10)
		fill(2)
		m.drain()
	}
}
