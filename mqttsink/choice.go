package mqttsink

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// choice decides which broker of the list sessions go to. All sessions of a Sink go to the same one,
// the broker in use: the subscribers of a primary would miss what a lane publishes at its standby.
//
//	          no session there, and no success for Config.FailoverAfter
//	in use ────────────────────────────────────────────────────────────► the next of the list is tried,
//	   ▲                                                                 then the one behind it, …
//	   └──────────────────── it accepts a session ◄──────────────────────────────┘
//
// The first of the list is preferred. While another one is in use, those before it are asked now and
// then (shouldLeave). One that accepts connections again is in use from then on: the sessions elsewhere
// leave when nothing is in flight, so that nothing becomes unknown. Thus all instances meet at the same
// broker without talking to each other, also those that were started meanwhile.
type choice struct {
	brokers []*broker
	after   time.Duration // Config.FailoverAfter
	log     *slog.Logger

	mu      sync.Mutex
	at      int                // guarded by mu: the broker in use, or the one that is tried
	home    int                // guarded by mu: the broker that was in use last; -1: none was
	failing time.Time          // guarded by mu: since when all attempts at home fail; zero: they do not
	asking  bool               // guarded by mu: shouldLeave is asking
	asked   time.Time          // guarded by mu: when it asked last
	answers int                // guarded by mu: how many times in a row a preferred broker has accepted
	next    map[string]*broker // guarded by mu: where a broker has sent a client when it ended its session
}

const (
	// answersToReturn is how many times in a row a preferred broker has to accept a connection. One
	// that restarts again and again is none to return to.
	answersToReturn = 2
	// leastAskPause and mostAskPause bound the time between two of these; it is FailoverAfter otherwise.
	leastAskPause = time.Second
	mostAskPause  = 30 * time.Second
)

func newChoice(brokers []*broker, after time.Duration, log *slog.Logger) *choice {
	return &choice{brokers: brokers, after: max(after, 0), log: log, home: -1, next: map[string]*broker{}}
}

// current returns the broker to connect a client to.
func (c *choice) current(clientID string) *broker {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b := c.next[clientID]; b != nil {
		delete(c.next, clientID)
		return b
	}
	return c.brokers[c.at]
}

// known reports whether a broker was in use before.
func (c *choice) known() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.home >= 0
}

// accepted notes that a broker has accepted a session. It reports whether another one is preferred.
func (c *choice) accepted(b *broker) (standby bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b != c.brokers[c.at] { // it was redirected, or the choice has changed meanwhile
		return false
	}
	c.failing = time.Time{}
	if c.home != c.at {
		if c.home >= 0 {
			c.log.Warn("another broker is in use now", "broker", b.address)
		}
		c.home, c.answers = c.at, 0
	}
	return c.at > 0
}

// failed notes that an attempt to connect has failed, and since when it was under way.
func (c *choice) failed(b *broker, since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b != c.brokers[c.at] || len(c.brokers) == 1 {
		return
	}
	if c.at == c.home {
		switch {
		case b.sessions.Load() > 0:
			c.failing = time.Time{}
			return
		case c.failing.IsZero():
			c.failing = since
		}
		if time.Since(c.failing) < c.after {
			return
		}
	}
	c.at = (c.at + 1) % len(c.brokers)
	c.log.Warn("cannot connect to a broker; trying the next one", "broker", b.address, "next", c.brokers[c.at].address)
}

// inUse returns the brokers that have sessions or, if none has, the current one.
func (c *choice) inUse() []*broker {
	c.mu.Lock()
	defer c.mu.Unlock()
	busy := slices.DeleteFunc(slices.Clone(c.brokers), func(b *broker) bool { return b.sessions.Load() == 0 })
	if len(busy) == 0 {
		return []*broker{c.brokers[c.at]}
	}
	return busy
}

// shouldLeave reports whether a session should leave its broker, for a preferred one that accepts
// connections again.
func (c *choice) shouldLeave(ctx context.Context, b *broker) bool {
	c.mu.Lock()
	at := slices.Index(c.brokers, b)
	if at > c.at && c.at == c.home {
		c.mu.Unlock()
		return true
	}
	if at != c.at || at == 0 || c.asking || time.Since(c.asked) < min(max(c.after, leastAskPause), mostAskPause) {
		c.mu.Unlock()
		return false
	}
	c.asking = true
	c.mu.Unlock()
	back := slices.IndexFunc(c.brokers[:at], func(preferred *broker) bool { return preferred.acceptsConnections(ctx) })
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asking, c.asked = false, time.Now()
	if back < 0 || c.at != at {
		c.answers = 0
		return false
	}
	if c.answers++; c.answers < answersToReturn {
		return false
	}
	c.at, c.home, c.answers, c.failing = back, back, 0, time.Time{}
	c.log.Info("a preferred broker accepts connections again; returning to it", "broker", c.brokers[back].address)
	return true
}

// meant returns the broker that a Server Reference means, or nil: hosts, with or without ports,
// separated by spaces [MQTT 5, 4.11]. It has to be one of our list: whoever is connected to gets our
// password, and a broker that was taken over must not be able to collect those of others.
func (c *choice) meant(reference string) *broker {
	for _, b := range c.brokers {
		if b.isMeantBy(reference) {
			return b
		}
	}
	return nil
}

// redirect has the next connection of a client go to the broker that a Server Reference means, if it
// is one of ours.
func (c *choice) redirect(clientID, reference string) {
	b := c.meant(reference)
	c.mu.Lock()
	defer c.mu.Unlock()
	if b != nil {
		c.next[clientID] = b
	}
}
