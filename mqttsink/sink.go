package mqttsink

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor"
)

// Sink connects lanes to one broker. Its methods may be called from any goroutine.
type Sink struct {
	cfg    Config
	broker broker
	warned sync.Once // of a short session expiry
}

// shortExpiry is a session expiry that an ordinary outage may exceed.
const shortExpiry = 10 * time.Minute

var _ reactor.Sink = (*Sink)(nil)

// New checks the configuration. It does not connect.
func New(cfg Config) (*Sink, error) {
	cfg = cfg.withDefaults()
	b, err := parseBroker(cfg)
	if err == nil {
		err = cfg.validate()
	}
	if err != nil {
		return nil, fmt.Errorf("mqttsink: %w", err)
	}
	return &Sink{cfg: cfg, broker: b}, nil
}

// errPatience is why Connect gives up when it is not its caller who does.
var errPatience = errors.New("connect timeout")

// Connect implements reactor.Sink.
func (s *Sink) Connect(ctx context.Context, opts reactor.ConnectOptions) (reactor.Session, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.ConnectTimeout, errPatience)
	defer cancel()
	conn, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	// The handshake ends with the context, too: closing the connection ends a read.
	stop := context.AfterFunc(ctx, func() { hangUp(conn) })
	reader := bufio.NewReaderSize(conn, readBuffer)
	terms, err := s.handshake(conn, reader, opts)
	if !stop() {
		err = s.explainTimeout(ctx)
	}
	if err != nil {
		hangUp(conn)
		return nil, err
	}
	s.cfg.Logger.Debug("the broker accepted the session", "broker", s.broker.address, "client_id", opts.ClientID,
		"resumed", terms.limits.Resumed, "in_flight", terms.limits.InFlight, "packet_bytes", terms.limits.PacketBytes,
		"keep_alive", terms.keepAlive, "session_expiry", terms.sessionExpiry)
	if opts.Delivery.QoS() == 2 && terms.sessionExpiry < min(shortExpiry, s.cfg.SessionExpiry) {
		s.warned.Do(func() {
			s.cfg.Logger.Warn("the broker keeps the sessions of clients that are away only for a short time; after a longer outage what was on its way is treated as lost",
				"session_expiry", terms.sessionExpiry, "asked_for", s.cfg.SessionExpiry)
		})
	}
	return newSession(conn, reader, opts, terms, s.cfg.WriteTimeout), nil
}

// handshake sends CONNECT and reads CONNACK.
func (s *Sink) handshake(conn io.Writer, reader *bufio.Reader, opts reactor.ConnectOptions) (terms, error) {
	if _, err := s.connectPacket(opts).WriteTo(conn); err != nil {
		return terms{}, s.explainSilence(err)
	}
	// Look before reading: a server of another protocol may never send as many bytes as
	// its first two seem to announce.
	head, err := reader.Peek(2)
	if err != nil {
		return terms{}, s.explainSilence(err)
	}
	if head[0] != packets.CONNACK<<4 {
		return terms{}, fmt.Errorf("broker %s does not answer as an MQTT broker does: check the port, and whether it expects TLS (mqtts://)", s.broker.address)
	}
	packet, err := nextPacket(reader)
	if err != nil {
		return terms{}, s.explainSilence(err)
	}
	connack, err := decodeConnack(packet)
	if err != nil {
		return terms{}, fmt.Errorf("broker %s: %w", s.broker.address, err)
	}
	if connack.ReasonCode != packets.ConnackSuccess {
		return terms{}, s.refusal(connack)
	}
	return s.agree(connack, opts.Delivery)
}

// terms are what a CONNACK and our own configuration come to together.
type terms struct {
	limits        reactor.Limits
	keepAlive     time.Duration
	sessionExpiry time.Duration // after the connection, how long the broker keeps its state
}

// agree accepts the broker's terms, or refuses to work under them.
func (s *Sink) agree(connack *packets.Connack, delivery reactor.Delivery) (terms, error) {
	p := connack.Properties
	maxQoS := byte(2)
	if p.MaximumQOS != nil {
		maxQoS = *p.MaximumQOS
	}
	if maxQoS < delivery.QoS() {
		return terms{}, &reactor.ConnectRefusedError{
			Broker: s.broker.address, Code: packets.ConnackQoSNotSupported,
			Reason: fmt.Sprintf("it takes QoS %d at most, and %v needs QoS %d: use --delivery %v",
				maxQoS, delivery, delivery.QoS(), bestDelivery(maxQoS)),
		}
	}
	if id := p.AssignedClientID; id != "" {
		return terms{}, &reactor.ConnectRefusedError{
			Broker: s.broker.address, Code: packets.ConnackInvalidClientID,
			Reason: "it replaces our client id by " + strconv.Quote(id) + ", and sessions could not be resumed: let it allow client ids of ours (reactor-…)",
		}
	}
	t := terms{
		limits:    reactor.Limits{InFlight: s.cfg.inFlight(delivery.QoS()), QoS: maxQoS, Resumed: connack.SessionPresent},
		keepAlive: time.Duration(s.cfg.keepAliveSeconds()) * time.Second,
	}
	if delivery.QoS() > 0 {
		t.sessionExpiry = s.cfg.SessionExpiry.Truncate(time.Second)
	}
	if n := p.ReceiveMaximum; n != nil {
		t.limits.InFlight = min(t.limits.InFlight, int(*n))
		if delivery.QoS() == 2 {
			// Half is for whoever resumes the session: it cannot know which of the messages
			// in doubt the broker holds, and has to send it as many again.
			t.limits.InFlight = min(t.limits.InFlight, (int(*n)+1)/2)
		}
	}
	if n := p.MaximumPacketSize; n != nil {
		t.limits.PacketBytes = int(*n)
		if *n == 0 {
			return terms{}, fmt.Errorf("broker %s: protocol error: a Maximum Packet Size of 0 in CONNACK", s.broker.address)
		}
	}
	if t.limits.InFlight == 0 {
		return terms{}, fmt.Errorf("broker %s: protocol error: a Receive Maximum of 0 in CONNACK", s.broker.address)
	}
	// A broker that wants to hear from us less often may hear from us more often. 0
	// means that it does not care; we still want to know whether it is there.
	if n := p.ServerKeepAlive; n != nil && *n > 0 {
		t.keepAlive = min(t.keepAlive, time.Duration(*n)*time.Second)
	}
	if n := p.SessionExpiryInterval; n != nil {
		t.sessionExpiry = time.Duration(*n) * time.Second
		if *n == 0 && delivery.QoS() == 2 {
			return terms{}, &reactor.ConnectRefusedError{
				Broker: s.broker.address, Code: packets.ConnackImplementationSpecificError,
				Reason: fmt.Sprintf("it keeps no session of a client that is away, and %v needs that: let it keep sessions, or use --delivery at-least-once", delivery),
			}
		}
	}
	return t, nil
}

// bestDelivery is the strongest promise that can be kept with a QoS.
func bestDelivery(maxQoS byte) reactor.Delivery {
	if maxQoS == 0 {
		return reactor.AtMostOnce
	}
	return reactor.AtLeastOnce
}

// connectPacket asks for the session as it was left, so that the exchange of a packet
// identifier can be resumed, even by a lane that sends nothing but QoS 0 of its own: its
// last owner may have promised more. The session is to outlive the connection where
// something may have to be resumed after it.
func (s *Sink) connectPacket(opts reactor.ConnectOptions) *packets.Connect {
	ours := uint32(maxReceived)
	connect := &packets.Connect{
		ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: opts.ClientID,
		KeepAlive: s.cfg.keepAliveSeconds(), Properties: &packets.Properties{MaximumPacketSize: &ours},
		UsernameFlag: s.broker.username != "", Username: s.broker.username,
		PasswordFlag: s.broker.password != "", Password: []byte(s.broker.password),
	}
	if opts.Delivery.QoS() > 0 {
		expiry := uint32(s.cfg.SessionExpiry / time.Second)
		connect.Properties.SessionExpiryInterval = &expiry
	}
	return connect
}
