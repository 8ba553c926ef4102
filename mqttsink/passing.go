package mqttsink

import (
	"bufio"
	"bytes"
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
// whenever we die, the broker forgets the session, the subscription and the message. The connection is
// made to the address that the lane's own leads to, because the nodes of a cluster may differ.
//
//	SUBSCRIBE ─► PUBLISH, QoS 2 ─► PUBREC ─► PUBLISH, QoS 0 ─► it arrives ─► wait ─► PING ─► PUBREL ─► PUBCOMP
//	                   └─────────────── the first arrives here: ─────────────────┘        └── or here, soon:
//	                                    passes on at PUBLISH                               passes on at release
//
// That nothing arrives for a while proves little: we, the network or the broker may be slow. So a
// second message, behind the first, shows how long the broker takes to pass something on; and the
// answer to a ping, that all it has sent before has been read. Where either takes long, it stays unclear.
const (
	passingTopics = "reactor/stage/"
	// passingWait is how long the message must not arrive, after the one behind it has, for us to
	// believe that the broker withholds it. A cluster may pass on its messages by several ways.
	passingWait = 500 * time.Millisecond
	// passingSoon is how soon a message must arrive that the broker passes on.
	passingSoon = 100 * time.Millisecond
	// passingPatience is how long the whole may take, beside the wait.
	passingPatience = 5 * time.Second
)

const allowPassing = "allow the user of reactor to publish and to subscribe to " + passingTopics + "#"

// errTooSlow: something took too long for the answer to be certain.
var errTooSlow = errors.New("it takes too long to be sure of the answer")

// PassesOn implements driver.Session.
func (s *session) PassesOn(ctx context.Context) (driver.Passing, error) {
	address := s.at.address
	if s.at.direct {
		address = plain(s.conn).RemoteAddr().String()
	}
	return s.at.passesOn(ctx, address)
}

func (b *broker) passesOn(ctx context.Context, address string) (driver.Passing, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, passingPatience+passingWait, errTooSlow)
	defer cancel()
	connect := b.connectPacket(driver.ConnectOptions{ClientID: newProbeID(), Fresh: true})
	conn, reader, _, err := b.openAt(ctx, address, connect)
	if err != nil {
		return driver.PassingUnclear, err
	}
	defer closeNow(conn)
	stop := context.AfterFunc(ctx, func() { closeNow(conn) })
	defer stop()
	p := &passingProbe{conn: conn, reader: reader, topic: passingTopics + rand.Text()}
	passing, err := p.run()
	if errors.Is(context.Cause(ctx), errTooSlow) {
		if err = errTooSlow; p.step == awaitsMessage {
			err = fmt.Errorf("%w: the messages for that do not arrive: %s", driver.ErrCannotAsk, allowPassing)
		}
	}
	if err != nil {
		return driver.PassingUnclear, fmt.Errorf("finding out when broker %s passes messages on: %w", b.address, err)
	}
	_, _ = conn.Write(disconnect) // the session ends with the connection in any case
	return passing, nil
}

// passingProbe is the connection for the messages.
type passingProbe struct {
	conn             net.Conn
	reader           *bufio.Reader
	topic            string
	step             passingStep
	arrived, control bool // the message, and the one behind it
}

type passingStep uint8

const (
	awaitsAnswer  passingStep = iota
	awaitsMessage             // that the broker passes on
)

// controlPayload tells the message behind the one in question.
const controlPayload = "control"

func (p *passingProbe) run() (driver.Passing, error) {
	const id = 1 // all packet identifiers are free in a session of our own
	if err := p.send(&packets.Subscribe{
		PacketID: id, Properties: &packets.Properties{},
		Subscriptions: []packets.SubOptions{{Topic: p.topic, RetainHandling: 2}},
	}, packets.SUBACK); err != nil {
		return 0, err
	}
	if err := p.send(&packets.Publish{PacketID: id, QoS: 2, Topic: p.topic, Properties: &packets.Properties{}}, packets.PUBREC); err != nil {
		return 0, err
	}
	if _, err := (&packets.Publish{Topic: p.topic, Payload: []byte(controlPayload), Properties: &packets.Properties{}}).WriteTo(p.conn); err != nil {
		return 0, err
	}
	if err := p.await(&p.control, time.Now()); err != nil || p.arrived {
		return driver.PassesOnAtPublish, err
	}
	if err := p.watch(passingWait); err != nil || p.arrived {
		return driver.PassesOnAtPublish, err
	}
	released := time.Now()
	if err := p.send(&packets.Pubrel{PacketID: id, Properties: &packets.Properties{}}, packets.PUBCOMP); err != nil {
		return 0, err
	}
	return driver.PassesOnAtRelease, p.await(&p.arrived, released)
}

// await waits for a message, which must come soon after it was published or released.
func (p *passingProbe) await(arrived *bool, since time.Time) error {
	p.step = awaitsMessage
	for !*arrived {
		if _, _, err := p.next(); err != nil {
			return err
		}
	}
	p.step = awaitsAnswer
	if time.Since(since) > passingSoon {
		return errTooSlow
	}
	return nil
}

// ping returns when all is read that the broker has sent before.
func (p *passingProbe) ping() error {
	if _, err := p.conn.Write(pingreq); err != nil {
		return err
	}
	return p.awaitPong()
}

func (p *passingProbe) awaitPong() error {
	for {
		if kind, _, err := p.next(); err != nil || kind == packets.PINGRESP {
			return err
		}
	}
}

// send sends a packet and waits for its answer, which must not be a refusal.
func (p *passingProbe) send(packet packets.Packet, answer byte) error {
	code, err := p.ask(packet, answer)
	if err == nil && refused(code) {
		return fmt.Errorf("%w: it refuses the message for that (%s): %s", driver.ErrCannotAsk, reasonText(code), allowPassing)
	}
	return err
}

// ask sends a packet and returns the reason code of its answer.
func (p *passingProbe) ask(packet packets.Packet, answer byte) (code byte, err error) {
	if _, err := packet.WriteTo(p.conn); err != nil {
		return 0, err
	}
	for {
		got, code, err := p.next()
		if err != nil || got == answer {
			return code, err
		}
	}
}

// watch takes packets until the message arrives, or until the broker answers a ping that is sent after a
// while: then all is read that it has sent until then. It has no deadline for reading, because a
// WebSocket would end with it.
func (p *passingProbe) watch(d time.Duration) error {
	ping := time.AfterFunc(d, func() { _, _ = p.conn.Write(pingreq) }) // a connection that cannot be written to ends the reading as well
	defer ping.Stop()
	for !p.arrived {
		if kind, _, err := p.next(); err != nil || kind == packets.PINGRESP {
			return err
		}
	}
	return nil
}

// next takes a packet from the broker: its type, and the reason code of an answer.
func (p *passingProbe) next() (kind, code byte, err error) {
	packet, err := nextPacket(p.reader)
	if err != nil {
		return 0, 0, err
	}
	switch kind = packet[0] >> 4; kind {
	case packets.PUBLISH: // of the only topic
		if bytes.HasSuffix(packet, []byte(controlPayload)) {
			p.control = true
		} else {
			p.arrived = true
		}
	case packets.PUBACK, packets.PUBREC, packets.PUBCOMP:
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
