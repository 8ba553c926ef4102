package mqttsink

import (
	"context"
	"errors"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor/driver"
)

const (
	// answersToReturn is how many times in a row a preferred broker has to work when it is asked. One
	// that restarts again and again is none to return to.
	answersToReturn = 2
	// leastAskPause and mostAskPause bound the time between two of these; it is FailoverAfter otherwise.
	leastAskPause = time.Second
	mostAskPause  = 30 * time.Second
	// A broker that fails within steadyReturn after a return is not asked for leastHoldOff, and twice as long each
	// time that it happens again, up to mostHoldOff: what it answers is not worth much.
	steadyReturn = 10 * time.Minute
	leastHoldOff = 30 * time.Second
	mostHoldOff  = 10 * time.Minute
)

// shouldLeave reports whether a session should leave its broker, for a preferred one that works again.
func (c *choice) shouldLeave(ctx context.Context, via *broker) bool {
	c.mu.Lock()
	at := c.index(via)
	if at > c.at && c.at == c.home {
		c.mu.Unlock()
		return true
	}
	if at != c.at || at == 0 || c.asking || time.Since(c.asked) < min(max(c.after, leastAskPause), mostAskPause) || time.Now().Before(c.notBefore) {
		c.mu.Unlock()
		return false
	}
	c.asking = true
	qos := c.qos
	c.mu.Unlock()
	back, unusable := c.firstThatWorks(ctx, at, qos)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asking, c.asked = false, time.Now()
	if unusable != "" && unusable != c.unusable {
		c.log.Warn("a preferred broker is there, and is not usable; not returning to it", "err", unusable)
	}
	c.unusable = unusable
	if back < 0 || c.at != at {
		c.answers = 0
		return false
	}
	if c.answers++; c.answers < answersToReturn {
		return false
	}
	c.at, c.home, c.answers = back, back, 0
	c.failing = time.Time{}
	c.doubt(time.Time{})
	c.returned, c.returnedAt = true, time.Now()
	clear(c.behind)
	c.log.Info("a preferred broker works again; returning to it", "broker", c.brokers[back].address)
	return true
}

// noteReturnFailed notes that the broker in use is being left. The caller holds mu.
func (c *choice) noteReturnFailed() {
	switch {
	case !c.returned:
		return
	case time.Since(c.returnedAt) >= steadyReturn:
		c.holdOff = 0
		return
	}
	c.holdOff = min(max(2*c.holdOff, leastHoldOff), mostHoldOff)
	c.notBefore = time.Now().Add(c.holdOff)
}

// firstThatWorks returns the first of the brokers before a place that works, or -1; and why one of them
// that is there does not. One that refuses the client id of the probe, and says so, may know those of the
// lanes. One that refuses the login refuses that of the lanes, most likely.
func (c *choice) firstThatWorks(ctx context.Context, before int, qos byte) (place int, unusable string) {
	for i, b := range c.brokers[:before] {
		found, err := b.probe(ctx, qos)
		var refused *driver.ConnectRefusedError
		if found == works || found == cannotBeAsked && errors.As(err, &refused) && refused.Code == packets.ConnackInvalidClientID {
			return i, ""
		}
		if found != unreachable && ctx.Err() == nil && unusable == "" {
			unusable = err.Error()
		}
	}
	return -1, unusable
}

// leftBehind returns the broker that a return has left, if a client has to go there once more, or nil.
// What becomes of the messages that it has in flight is known only to the session there: at another
// broker all of them would become unknown. It settles them there, and then leaves like the others
// (shouldLeave). If it cannot connect for FailoverAfter, or its sessions there are fruitless for so long, that
// is the failure of a broker like any other. The caller holds mu.
func (c *choice) leftBehind(opts driver.ConnectOptions) *broker {
	if !c.returned || !opts.Unsettled {
		return nil
	}
	last := c.find(opts.Broker)
	if last == nil || c.index(last) <= c.at {
		return nil
	}
	if since, failing := c.behind[opts.ClientID]; failing && time.Since(since) >= c.after {
		return nil
	}
	return last
}
