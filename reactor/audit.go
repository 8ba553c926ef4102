package reactor

import (
	"github.com/job-publisher/reactor/reactor/driver"
)

// What a lane knows of its journal, and how it keeps from claiming while that is in doubt
// (laneRunner.checkJournal).

// doubt has nothing claimed until trust.
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

// unknown returns the tokens of batches that are not the lane's.
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

// claims notes the token of the claim that is being made.
func (l *lane) claims(token [16]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.claiming = token
}
