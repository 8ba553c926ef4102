package pgsource

import (
	"slices"
	"sync"
)

// PoolStats are the connections to the database at some moment, except that of the feed.
type PoolStats struct {
	// Open connections are used or idle. Opening ones will be; Closing ones still count for the server.
	Open, Idle, Opening, Closing int
	// Most is how many there may be.
	Most int
	// Waiting is how many statements wait for a connection.
	Waiting int
}

// pools are those that are open.
type pools struct {
	mu  sync.Mutex
	all []*pool // guarded by mu
}

func (ps *pools) add(p *pool) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.all = append(ps.all, p)
}

// giveUp ends what waits for connections of the pools, and makes them open every connection anew.
func (ps *pools) giveUp(why error) {
	ps.mu.Lock()
	all := slices.Clone(ps.all)
	ps.mu.Unlock()
	for _, p := range all {
		p.giveUp(why)
	}
}

// clear forgets them, before they are closed.
func (ps *pools) clear() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.all = nil
}

// PoolStats returns the state of the connections. It may be called at any time, from any goroutine.
func (s *Source) PoolStats() PoolStats {
	s.pools.mu.Lock()
	defer s.pools.mu.Unlock()
	var sum PoolStats
	for _, p := range s.pools.all {
		p.addTo(&sum)
	}
	return sum
}

func (p *pool) addTo(sum *PoolStats) {
	p.mu.Lock()
	defer p.mu.Unlock()
	sum.Open += p.open
	sum.Idle += len(p.idle)
	sum.Opening += p.opening
	sum.Closing += p.closing
	sum.Most += p.config.most
	sum.Waiting += len(p.waiting)
}
