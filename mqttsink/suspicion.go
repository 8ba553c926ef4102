package mqttsink

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// A message that makes a broker close the connection, and somebody who takes over the sessions of our lanes,
// look like a broker that does not work. A probe tells those apart, because it has a client id of its own,
// and publishes a message of its own (probing.go). Only if the probe fails as well, and sessions were
// fruitless for Config.FailoverAfter, is the next broker tried. So the trouble of a lane never moves the others.
//
// It is asked sooner than it is left: whoever waits to give a message up has to know which of the two it is.
//
// A broker that keeps its sessions open and refuses each message by a reason code is not left: most
// likely the user lacks a right, and would lack it at the next one.

const (
	// askSoon is after how much doubt a broker is asked, if FailoverAfter is longer, and how long after the last answer.
	askSoon = 2 * time.Second
	// letsNobodyIn is for how long a broker that cannot be reached by whoever asks, while lanes do connect, counts as one
	// that is down now and then. After that it counts as one that cannot be asked.
	letsNobodyIn = 30 * time.Second
)

// ask asks the broker in use whether it works, if it is in doubt.
func (c *choice) ask(ctx context.Context, clientID string) {
	if b, qos := c.suspect(clientID); b != nil {
		found, err := b.probe(ctx, qos)
		c.judge(ctx, b, found, err)
	}
}

// suspect returns the broker in use if it has to be asked whether it works, with the QoS to ask for, or
// nil. Whoever asks passes the answer to judge. A probe of the lane does not ask: it has no time for that.
func (c *choice) suspect(clientID string) (*broker, byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, pause := time.Now(), min(c.after, askSoon)
	if c.fruitless.IsZero() || now.Sub(c.fruitless) < pause || now.Sub(c.probed) < pause || c.judging || c.at != c.home || strings.HasPrefix(clientID, driver.ProbePrefix) {
		return nil, 0
	}
	c.judging, c.probed = true, now
	return c.brokers[c.at], c.qos
}

// judge leaves a suspected broker if it accepts connections and does not work, for a reason, and has not worked for
// FailoverAfter. One that accepts no connection is left by the failures of the lanes to connect (failed). One that
// cannot be asked stays: nothing would tell its failure from the trouble of a lane.
func (c *choice) judge(ctx context.Context, b *broker, found verdict, why error) {
	for _, s := range c.decide(ctx, b, found, why) {
		s.end(errBrokerLeft)
	}
}

// decide is judge; it returns the sessions that have to end, so that the lanes stay together.
func (c *choice) decide(ctx context.Context, b *broker, found verdict, why error) (end []*session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked, now := c.probed, time.Now()
	c.judging, c.probed = false, now
	if ctx.Err() != nil || b != c.brokers[c.at] || c.at != c.home || c.fruitless.IsZero() {
		return nil
	}
	if found != unreachable {
		b.unreached = time.Time{}
	}
	switch found {
	case unreachable:
		if b.unreached.IsZero() {
			b.unreached = asked
		}
		if now.Sub(b.unreached) >= letsNobodyIn {
			c.trust(b)
			c.warnings.Fail(c.log, slog.LevelWarn, "a broker fails for lanes, and accepts no connection of a client that could find out whether it works; staying with it: allow the client ids "+driver.ProbePrefix+"…, and a few more connections", "broker", b.address, "err", why)
		}
	case works:
		c.trust(b)
		c.warnings.Fail(c.log, slog.LevelWarn, "a broker fails for lanes, and works for others: staying with it", "broker", b.address)
	case cannotBeAsked:
		c.trust(b)
		c.warnings.Fail(c.log, slog.LevelWarn, "a broker fails for lanes, and lets nobody in who could find out whether it works; staying with it: allow the client ids "+driver.ProbePrefix+"…", "broker", b.address, "err", why)
	case fails:
		b.vouched = time.Time{}
		if c.unfit.IsZero() {
			c.unfit = asked
		}
		// The doubt may be old: where nothing is due, nothing ends it. So a single failure is not enough.
		if now.Sub(c.fruitless) < c.after || now.Sub(c.unfit) < c.after-askSoon {
			return nil
		}
		for s := range c.open {
			if s.via == b {
				end = append(end, s)
			}
		}
		c.tryNext()
		c.log.Warn("a broker accepts sessions, and does not work; trying the next one", "broker", b.address, "next", c.brokers[c.at].address, "err", why)
	}
	return end
}
