package mqttsink

import "sync"

// closesInARow is how many connections of a client id a broker has to close without a DISCONNECT,
// each while it was asked to subscribe, before that may be a refusal. One or two may be caused
// by the network, or by a restart of the broker.
const closesInARow = 3

// closeCounts counts, for each client id, how many connections in a row the broker has closed.
type closeCounts struct {
	mu   sync.Mutex
	byID map[string]int // guarded by mu
}

// count adds one for a client id, and returns how many there have been in a row.
func (e *closeCounts) count(clientID string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.byID == nil {
		e.byID = make(map[string]int)
	}
	e.byID[clientID]++
	return e.byID[clientID]
}

func (e *closeCounts) forget(clientID string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.byID, clientID)
}
