package reactor

import (
	"github.com/job-publisher/reactor/reactor/driver"
)

// This file holds what a lane knows about its journal. While the journal is in doubt, the lane
// claims nothing (laneRunner.checkJournal).

// doubt stops claims until trust is called.
func (l *lane) doubt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doubted = true
}

func (l *lane) trust() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doubted = false
	l.capacity.Set()
}

// unknown returns the tokens of the journal's batches that the lane does not know.
func (l *lane) unknown(journal []driver.Unsettled) map[[16]byte]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	unknown := map[[16]byte]bool{}
	for _, b := range journal {
		if b.Token != l.claiming && !l.machine.Knows(b.Token) {
			unknown[b.Token] = true
		}
	}
	return unknown
}

// claims notes the token of the claim that is being made; the zero token: none.
func (l *lane) claims(token [16]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.claiming = token
}
