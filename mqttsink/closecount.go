package mqttsink

import "sync"

// hangUpsInARow is how many connections of a client id a broker has to close without a
// word, each while it was asked to subscribe, until that is taken for its answer. One or
// two are a network's, or a broker's that is being restarted.
const closesInARow = 3

// evictions counts them.
type closeCounts struct {
	mu   sync.Mutex
	byID map[string]int // guarded by mu
}

// count adds one and returns how many there have been in a row.
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
