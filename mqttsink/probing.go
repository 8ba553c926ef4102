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

// verdict is what a broker was found to do.
type verdict uint8

const (
	unreachable   verdict = iota // it accepts no connection
	cannotBeAsked                // it lets in no client id that it does not know
	fails                        // it accepts connections, and lanes cannot work with it
	works
)

// probe finds out whether the broker is one that lanes can work with, by a client that nobody else is: it
// agrees to the terms that a lane needs, and answers a message. If it refers to another broker of the list,
// as it would refer a lane, that one is asked. The error says why it does not work.
func (b *broker) probe(ctx context.Context, qos byte) (verdict, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.ConnectTimeout, errConnectTimeout)
	defer cancel()
	for hops := 0; ; hops++ {
		found, err := b.probeOnce(ctx, qos)
		var redirected *redirectError
		if !errors.As(err, &redirected) || hops == maxRedirects {
			return found, err
		}
		next := b.choice.meant(redirected.reference)
		if next == nil || next == b {
			return found, err
		}
		b = next
	}
}

func (b *broker) probeOnce(ctx context.Context, qos byte) (verdict, error) {
	opts := driver.ConnectOptions{ClientID: newProbeID(), QoS: qos}
	connect := b.connectPacket(opts)
	expiry := uint32(probeExpiry / time.Second)
	connect.Properties.SessionExpiryInterval = &expiry // a broker that keeps no sessions says so
	conn, reader, connack, err := b.open(ctx, connect)
	if err != nil {
		var refused *driver.ConnectRefusedError
		if errors.As(err, &refused) && refusesID(refused.Code) {
			return cannotBeAsked, err
		}
		return unreachable, err
	}
	defer closeNow(conn)
	if _, err := b.negotiate(connack, opts); err != nil {
		return fails, err
	}
	stop := context.AfterFunc(ctx, func() { closeNow(conn) })
	defer stop()
	p := &passingProbe{conn: conn, reader: reader, topic: passingTopics + rand.Text()}
	if err := p.tryMessage(qos); err != nil {
		if errors.Is(context.Cause(ctx), errConnectTimeout) {
			return fails, explained(err, "broker %s accepts connections and does not answer a message within %v", b.address, b.cfg.ConnectTimeout)
		}
		return fails, fmt.Errorf("broker %s accepts connections and fails at a message: %w", b.address, err)
	}
	(&probe{conn: conn}).leave(0)
	return works, nil
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
