package mqttsink

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor/driver"
)

// A broker may accept CONNECT and fail at everything after it: its disk is full, its cluster has no
// majority, a proxy answers in its place. So an accepted connection does not count as a success of the
// broker in use.
//
//	a session has worked      it has received an answer that refuses nothing to a message, or one to a
//	                          ping. An answer to SUBSCRIBE is none: a broker that closes the connection
//	                          at each message may give it.
//	a session was fruitless   it has ended before that, and neither was it closed by us nor taken over
//
// While sessions are fruitless, and none that is open has worked, for Config.FailoverAfter, the broker is
// suspected, and no more than that: a message that makes a broker close the connection, and somebody
// who takes over the sessions of our lanes, look the same. A probe tells those apart, because it has
// a client id of its own, and publishes a message of its own (works). Only if the probe fails as well
// is the next broker tried. So the trouble of a lane never moves the others.
//
// A broker that keeps its sessions open and refuses each message by a reason code is not left: most
// likely the user lacks a right, and would lack it at the next one. Neither is one that answers pings,
// and no message.

// ended notes how a session has ended. Its own goroutine calls it.
func (c *choice) ended(s *session) {
	if s.worked {
		s.via.working.Add(-1)
		return
	}
	err := s.Err()
	switch {
	case s.referred, errors.Is(err, errClosed), errors.Is(err, driver.ErrSessionTakenOver),
		errors.Is(err, errAborted), errors.Is(err, errMayNotPublish), errors.Is(err, context.Canceled):
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case len(c.brokers) < 2 || s.via != c.brokers[c.at] || c.at != c.home:
	case s.via.working.Load() > 0:
		c.fruitless = time.Time{}
	case c.fruitless.IsZero():
		c.fruitless = time.Now()
	}
}

// noteWork notes the first answer of a session by which it has worked. The reading goroutine calls it.
func (s *session) noteWork() {
	s.worked = true
	s.via.working.Add(1)
	c := s.via.choice
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.brokers) > 1 && s.via == c.brokers[c.at] {
		c.fruitless = time.Time{}
	}
}

// suspect returns the broker in use if it has to be asked whether it works, with the QoS to ask for, or
// nil. Whoever asks passes the answer to judge.
func (c *choice) suspect() (*broker, byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fruitless.IsZero() || time.Since(c.fruitless) < c.after || c.judging || c.at != c.home {
		return nil, 0
	}
	b := c.brokers[c.at]
	if b.working.Load() > 0 {
		c.fruitless = time.Time{}
		return nil, 0
	}
	c.judging = true
	return b, c.qos
}

// judge leaves a suspected broker if it accepts connections and does not work, for a reason. If it works it
// is trusted for another FailoverAfter. One that accepts no connection is left by the failures of the
// lanes to connect (failed).
func (c *choice) judge(ctx context.Context, b *broker, connected bool, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.judging = false
	switch {
	case ctx.Err() != nil || !connected || b != c.brokers[c.at] || c.at != c.home:
	case why == nil || b.working.Load() > 0:
		c.fruitless = time.Time{}
		c.log.Warn("a broker ends the sessions of lanes, and works for others: staying with it", "broker", b.address)
	default:
		c.tryNext()
		c.log.Warn("a broker accepts sessions, and does not work; trying the next one", "broker", b.address, "next", c.brokers[c.at].address, "err", why)
	}
}

// works finds out whether the broker is one that lanes can work with, by a client that nobody else is: it
// agrees to the terms that a lane needs, and answers a message. connected tells that it has accepted
// the connection. A broker that lets in no client id that it does not know cannot be asked more than that.
func (b *broker) works(ctx context.Context, qos byte) (connected bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.ConnectTimeout, errConnectTimeout)
	defer cancel()
	opts := driver.ConnectOptions{ClientID: newProbeID(), QoS: qos}
	connect := b.connectPacket(opts)
	expiry := uint32(probeExpiry / time.Second)
	connect.Properties.SessionExpiryInterval = &expiry // a broker that keeps no sessions says so
	conn, reader, connack, err := b.open(ctx, connect)
	if err != nil {
		var refused *driver.ConnectRefusedError
		if errors.As(err, &refused) && refused.Code == packets.ConnackInvalidClientID {
			return true, nil
		}
		return false, err
	}
	defer closeNow(conn)
	if _, err := b.negotiate(connack, opts); err != nil {
		return true, err
	}
	stop := context.AfterFunc(ctx, func() { closeNow(conn) })
	defer stop()
	p := &passingProbe{conn: conn, reader: reader, topic: passingTopics + rand.Text()}
	if err := p.tryMessage(qos); err != nil {
		if errors.Is(context.Cause(ctx), errConnectTimeout) {
			return true, explained(err, "broker %s accepts connections and does not answer a message within %v", b.address, b.cfg.ConnectTimeout)
		}
		return true, fmt.Errorf("broker %s accepts connections and fails at a message: %w", b.address, err)
	}
	(&probe{conn: conn}).leave(0)
	return true, nil
}

// tryMessage publishes an empty message on a topic that nobody knows, and returns nil if the broker
// answers as one that works. That it does not allow us this topic is such an answer.
func (p *passingProbe) tryMessage(qos byte) error {
	const id = 1
	message := &packets.Publish{PacketID: id, QoS: qos, Topic: p.topic, Properties: &packets.Properties{}}
	if qos == 0 { // the ping behind it is answered if the broker has taken it
		if _, err := message.WriteTo(p.conn); err != nil {
			return err
		}
		return p.ping()
	}
	answer := byte(packets.PUBACK)
	if qos == 2 {
		answer = packets.PUBREC
	}
	code, err := p.ask(message, answer)
	switch {
	case err != nil:
		return err
	case isTrouble(code):
		return fmt.Errorf("it refuses it (%s)", reasonText(code))
	case qos < 2 || refused(code):
		return nil
	}
	_, err = p.ask(&packets.Pubrel{PacketID: id, Properties: &packets.Properties{}}, packets.PUBCOMP)
	return err
}

// isTrouble reports whether a refusal is about the broker, and not about the message.
func isTrouble(code byte) bool {
	switch code {
	case 0x80, 0x83, 0x97: // unspecified error, implementation specific error, quota exceeded
		return true
	}
	return false
}
