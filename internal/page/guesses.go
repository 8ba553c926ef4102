package page

import (
	"net/netip"
	"sync"
	"time"
)

// guesses slows down whoever guesses passwords: after some wrong ones, each costs twice the time of the one before. A network
// that has to wait holds up no other one.
type guesses struct {
	now func() time.Time

	mu sync.Mutex
	of map[netip.Prefix]*guessed // guarded by mu
}

// guessed are the wrong guesses from one network.
type guessed struct {
	wrong int
	last  time.Time
}

const (
	// freeGuesses are those that cost nothing.
	freeGuesses = 3
	// longestWait is what a guess costs at most, and forgotten how long after the last one all begins anew.
	longestWait, forgotten = time.Minute, 15 * time.Minute
	// mostGuessers bounds the memory. Beyond it all others share one count.
	mostGuessers = 1000
)

// everybody stands for all networks that have no count of their own.
var everybody = netip.Prefix{}

// network is whom a guess counts for: a host of IPv4, and the 64 bits of IPv6 that a single customer has.
func network(from netip.Addr) netip.Prefix {
	bits := from.BitLen()
	if from.Is6() {
		bits = 64
	}
	prefix, err := from.Prefix(bits)
	if err != nil {
		return everybody
	}
	return prefix
}

// begin counts a guess as a wrong one before it is checked, so that many at once gain nothing; right takes that back. wait is
// how long the caller has to wait first; 0: it may guess now.
func (g *guesses) begin(from netip.Addr) (wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	one := g.entry(from, now)
	if now.Sub(one.last) > forgotten {
		one.wrong = 0
	}
	if over := one.wrong - freeGuesses; over >= 0 {
		if wait = min(time.Second<<min(over, 6), longestWait) - now.Sub(one.last); wait > 0 {
			return wait
		}
	}
	one.wrong++
	one.last = now
	return 0
}

// right forgets the wrong guesses of somebody who knows the password.
func (g *guesses) right(from netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.of, network(from))
}

// entry returns the count of a network. The caller holds mu.
func (g *guesses) entry(from netip.Addr, now time.Time) *guessed {
	if g.of == nil {
		g.of = map[netip.Prefix]*guessed{}
	}
	key := network(from)
	if g.of[key] == nil && len(g.of) >= mostGuessers {
		for other, one := range g.of {
			if now.Sub(one.last) > forgotten {
				delete(g.of, other)
			}
		}
		if len(g.of) >= mostGuessers {
			key = everybody
		}
	}
	if g.of[key] == nil {
		g.of[key] = &guessed{}
	}
	return g.of[key]
}
