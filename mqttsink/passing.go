package mqttsink

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor/driver"
)

// When a broker passes QoS 2 messages on is found out by one of our own, on a topic of its own, which
// we subscribe to as well. It has a connection and a clean session to itself, which end with it:
// whenever we die, the broker forgets the session, the subscription and the message. It is made to the
// address that the lane's own connection leads to, for the nodes of a cluster may differ.
//
//	SUBSCRIBE ──► PUBLISH, QoS 2 ──► PUBREC ──► wait ──► PUBREL ──► PUBCOMP
//	                    └──── it arrives here: ─────┘         └── or here:
//	                        passes on at PUBLISH             passes on at release
const (
	passingTopics = "reactor/stage/"
	// passingWait is how long the message must not arrive after PUBREC for us to believe that the broker
	// withholds it. Brokers pass messages on within milliseconds; a cluster may take longer.
	passingWait = 500 * time.Millisecond
	// passingPatience is how long the whole may take, beside that.
	passingPatience = 5 * time.Second
)

const allowPassing = "allow the user of reactor to publish and to subscribe to " + passingTopics + "#"

// errTooSlow is the cause of a context that passingPatience has ended.
var errTooSlow = errors.New("too slow")

// PassesOn implements driver.Session.
func (s *session) PassesOn(ctx context.Context) (driver.Passing, error) {
	return s.sink.passesOn(ctx, plain(s.conn).RemoteAddr().String())
}

func (s *Sink) passesOn(ctx context.Context, address string) (driver.Passing, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, passingPatience+passingWait, errTooSlow)
	defer cancel()
	connect := s.connectPacket(driver.ConnectOptions{ClientID: driver.ProbePrefix + rand.Text(), Fresh: true})
	conn, reader, _, err := s.openAt(ctx, address, connect)
	if err != nil {
		return driver.PassingUnclear, err
	}
	defer closeNow(conn)
	stop := context.AfterFunc(ctx, func() { closeNow(conn) })
	defer stop()
	p := &passingProbe{conn: conn, reader: reader, topic: passingTopics + rand.Text()}
	passing, err := p.run()
	if errors.Is(context.Cause(ctx), errTooSlow) {
		if err = errors.New("it takes too long to say"); p.step == packets.PUBREL {
			err = errors.New("the message for that does not arrive: " + allowPassing)
		}
	}
	if err != nil {
		return driver.PassingUnclear, fmt.Errorf("finding out when broker %s passes messages on: %w", s.broker.address, err)
	}
	_, _ = conn.Write(disconnect) // the session ends with the connection in any case
	return passing, nil
}

// passingProbe is the connection for one message.
type passingProbe struct {
	conn    net.Conn
	reader  *bufio.Reader
	topic   string
	step    byte // the type of the last packet sent
	arrived bool // the message
}

func (p *passingProbe) run() (driver.Passing, error) {
	const id = 1 // all packet identifiers are free in a session of our own
	if err := p.send(packets.SUBSCRIBE, &packets.Subscribe{
		PacketID: id, Properties: &packets.Properties{},
		Subscriptions: []packets.SubOptions{{Topic: p.topic, RetainHandling: 2}},
	}, packets.SUBACK); err != nil {
		return 0, err
	}
	if err := p.send(packets.PUBLISH, &packets.Publish{
		PacketID: id, QoS: 2, Topic: p.topic, Properties: &packets.Properties{},
	}, packets.PUBREC); err != nil {
		return 0, err
	}
	if err := p.watch(passingWait); err != nil || p.arrived {
		return driver.PassesOnAtPublish, err
	}
	if err := p.send(packets.PUBREL, &packets.Pubrel{PacketID: id, Properties: &packets.Properties{}}, packets.PUBCOMP); err != nil {
		return 0, err
	}
	for !p.arrived {
		if _, _, err := p.next(); err != nil {
			return 0, err
		}
	}
	return driver.PassesOnAtRelease, nil
}

// send sends a packet and waits for its answer, which must not be a refusal.
func (p *passingProbe) send(kind byte, packet packets.Packet, answer byte) error {
	p.step = kind
	if _, err := packet.WriteTo(p.conn); err != nil {
		return err
	}
	for {
		got, code, err := p.next()
		switch {
		case err != nil:
			return err
		case got != answer:
		case refused(code):
			return fmt.Errorf("the broker refuses the message for that (%s): %s", reasonText(code), allowPassing)
		default:
			return nil
		}
	}
}

// watch takes packets for a while, or until the message arrives.
func (p *passingProbe) watch(d time.Duration) error {
	if err := p.conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	for !p.arrived {
		_, _, err := p.next()
		if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
			break
		}
		if err != nil {
			return err
		}
	}
	return p.conn.SetReadDeadline(time.Time{})
}

// next takes a packet from the broker: its type, and the reason code of an answer.
func (p *passingProbe) next() (kind, code byte, err error) {
	packet, err := nextPacket(p.reader)
	if err != nil {
		return 0, 0, err
	}
	switch kind = packet[0] >> 4; kind {
	case packets.PUBLISH: // of the only topic
		p.arrived = true
	case packets.PUBREC, packets.PUBCOMP:
		ack, err := decodeAck(packet)
		return kind, ack.Code, err
	case packets.SUBACK:
		suback := packets.Suback{Properties: &packets.Properties{}}
		if err := unpack(&suback, packet); err != nil {
			return 0, 0, err
		}
		if len(suback.Reasons) != 1 {
			return 0, 0, errMalformed
		}
		code = suback.Reasons[0]
	case packets.DISCONNECT:
		d, err := decodeDisconnect(packet)
		if err != nil {
			return 0, 0, err
		}
		return 0, 0, disconnected(d)
	}
	return kind, code, nil
}
