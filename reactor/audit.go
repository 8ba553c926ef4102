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
	l.capacity.set()
}

// unknown returns the tokens of batches that are not the lane's.
func (l *lane) unknown(journal []driver.Batch) map[[16]byte]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := map[[16]byte]bool{l.claiming: true}
	for _, f := range l.batches {
		if !f.settled {
			known[f.token] = true
		}
	}
	unknown := map[[16]byte]bool{}
	for _, b := range journal {
		if !known[b.Token] {
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
