package pgsource

import (
	"errors"
	"sync"
)

// moves tells the feeds that the database has moved to another server, or is about to: their
// connections may work for as long as the old server runs, and announce nothing.
type moves struct {
	mu   sync.Mutex
	next chan struct{} // guarded by mu; closed at the next move; nil: nobody waits
}

// errMoved ends a feed.
var errMoved = errors.New("the database has moved to another server")

// soon returns a channel that is closed at the next move.
func (m *moves) soon() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.next == nil {
		m.next = make(chan struct{})
	}
	return m.next
}

// tell says that the database has moved.
func (m *moves) tell() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.next != nil {
		close(m.next)
		m.next = nil
	}
}
