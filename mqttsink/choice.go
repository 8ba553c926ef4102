package mqttsink

import (
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/job-publisher/reactor/internal/ratelog"
	"github.com/job-publisher/reactor/reactor/driver"
)

// choice decides which broker of the list sessions go to. All sessions of a Sink go to the same one,
// the broker in use: the subscribers of a primary would miss what a lane publishes at its standby.
//
//	          it has failed for Config.FailoverAfter: no session can be opened, or
//	          those that are opened end, or go on, without having worked (working.go, suspicion.go)
//	in use ────────────────────────────────────────────────────────────► the next of the list is tried,
//	   ▲                                                                 then the one behind it, …
//	   └──────────────────── it accepts a session ◄──────────────────────────────┘
//
// The first of the list is preferred. While another one is in use, those before it are asked now and
// then (returning.go). One that works again is in use from then on: the sessions elsewhere leave when
// nothing is in flight, so that nothing becomes unknown. Thus all instances meet at the same broker
// without talking to each other, also those that were started meanwhile.
type choice struct {
	brokers []*broker
	after   time.Duration // Config.FailoverAfter
	log     *slog.Logger

	mu      sync.Mutex
	at      int       // guarded by mu: the broker in use, or the one that is tried
	home    int       // guarded by mu: the broker that was in use last; -1: none was
	failing time.Time // guarded by mu: since when all attempts at home fail; zero: they do not
	qos     byte      // guarded by mu: the highest QoS of a session

	fruitless time.Time         // guarded by mu: since when sessions at home end without having worked; zero: they do not
	doubted   atomic.Bool       // whether fruitless is set
	judging   bool              // guarded by mu: home is being asked whether it works
	probed    time.Time         // guarded by mu: when it was asked last
	unfit     time.Time         // guarded by mu: since when it has failed each time that it was asked; zero: it has not
	open      map[*session]bool // guarded by mu: the sessions that have not ended, and whether they were accepted
	warnings  ratelog.Limiter

	asking   bool      // guarded by mu: shouldLeave is asking
	asked    time.Time // guarded by mu: when it asked last
	answers  int       // guarded by mu: how many times in a row a preferred broker has worked
	unusable string    // guarded by mu: why a preferred broker that accepts connections did not work when it was asked last

	returned   bool                 // guarded by mu: the broker in use was changed last by a return
	returnedAt time.Time            // guarded by mu: when that was
	notBefore  time.Time            // guarded by mu: no preferred broker is asked before
	holdOff    time.Duration        // guarded by mu: how long that was after the last return that has failed
	behind     map[string]time.Time // guarded by mu: since when a client does not get on at the broker that a return has left
	next       map[string]route     // guarded by mu: where a broker has sent a client when it ended its session
}

// route is where a session goes. These are different brokers if one refers to another.
type route struct {
	to  *broker // that it is connected to
	via *broker // that was chosen, and that the session counts for
}

func newChoice(brokers []*broker, after time.Duration, log *slog.Logger) *choice {
	return &choice{
		brokers: brokers, after: max(after, 0), log: log, home: -1,
		behind: map[string]time.Time{}, next: map[string]route{}, open: map[*session]bool{},
	}
}

// route returns where to connect a client.
func (c *choice) route(opts driver.ConnectOptions) route {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.qos = max(c.qos, opts.QoS)
	if r, sent := c.next[opts.ClientID]; sent {
		delete(c.next, opts.ClientID)
		return r
	}
	if left := c.leftBehind(opts); left != nil {
		return route{left, left}
	}
	return route{c.brokers[c.at], c.brokers[c.at]}
}

// known reports whether a broker was in use before.
func (c *choice) known() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.home >= 0
}

// accepted notes that a broker has accepted a session. It reports whether another one is preferred, so
// that the session has to ask now and then whether it should leave. That does not depend on the
// broker in use, which may change before or after the session begins.
func (c *choice) accepted(s *session) (standby bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	via := s.via
	if _, open := c.open[s]; open {
		c.open[s] = true
	}
	if via == c.brokers[c.at] {
		delete(c.behind, s.clientID)
		c.failing = time.Time{}
		if c.home != c.at {
			if c.home >= 0 {
				c.log.Warn("another broker is in use now", "broker", via.address)
			}
			c.home, c.answers = c.at, 0
			c.doubt(time.Time{})
		}
	}
	return c.index(via) > 0
}

// begun notes that there is a session. It is not accepted yet: the broker may never say whose it is.
func (c *choice) begun(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[s] = false
}

// connected reports whether a session at a broker was accepted, and has not ended. The caller holds mu.
func (c *choice) connected(b *broker) bool {
	for s, accepted := range c.open {
		if accepted && s.via == b {
			return true
		}
	}
	return false
}

// failed notes that an attempt to connect has failed, and since when it was under way.
func (c *choice) failed(r route, clientID string, since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := r.via
	b.unreached = time.Time{}
	switch {
	case len(c.brokers) == 1 || r.to != b: // the one that it was sent to says nothing about the one that has sent it
		return
	case b != c.brokers[c.at]:
		if _, noted := c.behind[clientID]; !noted {
			c.behind[clientID] = since
		}
		return
	}
	if c.at == c.home {
		switch {
		case c.connected(b):
			c.failing = time.Time{}
			return
		case c.failing.IsZero():
			c.failing = since
		}
		if time.Since(c.failing) < c.after {
			return
		}
	}
	c.tryNext()
	c.log.Warn("cannot connect to a broker; trying the next one", "broker", b.address, "next", c.brokers[c.at].address)
}

// tryNext has the next broker of the list tried. The caller holds mu.
func (c *choice) tryNext() {
	c.noteReturnFailed()
	c.at = (c.at + 1) % len(c.brokers)
	c.returned = false
	c.doubt(time.Time{})
}

// index returns the place of a broker in the list, or -1.
func (c *choice) index(b *broker) int { return slices.Index(c.brokers, b) }

// find returns the broker of an address, or nil.
func (c *choice) find(address string) *broker {
	for _, b := range c.brokers {
		if b.address == address {
			return b
		}
	}
	return nil
}

// inUse returns the broker in use, or the one that is tried.
func (c *choice) inUse() *broker {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.brokers[c.at]
}
