package mqttsink

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Sink connects lanes to one broker. It implements driver.Sink. Its methods may be called from any
// goroutine.
type Sink struct {
	cfg    Config
	direct bool // connections are made by ourselves, so their addresses are the broker's
	broker broker
	warned sync.Once // a short session expiry was logged

	closeCounts closeCounts
	accepted    atomic.Bool // the broker has accepted a session, so it speaks MQTT 5
}

// shortExpiry is a session expiry that is shorter than an ordinary outage may be.
const shortExpiry = 10 * time.Minute

var _ driver.Sink = (*Sink)(nil)

// New checks the configuration; a field that cannot be used is a *driver.ConfigError. It does not
// connect.
func New(cfg Config) (*Sink, error) {
	direct := cfg.Dial == nil
	cfg = cfg.withDefaults()
	b, err := parseBroker(cfg)
	if err == nil {
		err = cfg.validate()
	}
	if err != nil {
		return nil, fmt.Errorf("mqttsink: %w", err)
	}
	return &Sink{cfg: cfg, direct: direct, broker: b}, nil
}

// errConnectTimeout is the cause of a context that ended because of Config.ConnectTimeout, and not
// because of the caller.
var errConnectTimeout = errors.New("connect timeout")

// Connect implements driver.Sink. Its errors are one line that says what to check, and unwrap to
// their cause. If the broker closes the connection without an answer, and has not accepted a
// session before, Connect finds out whether the broker speaks MQTT 3.1.1 only (mqtt311.go).
func (s *Sink) Connect(ctx context.Context, opts driver.ConnectOptions) (driver.Session, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.ConnectTimeout, errConnectTimeout)
	defer cancel()
	conn, reader, connack, err := s.open(ctx, s.connectPacket(opts))
	if errors.Is(err, errNoAnswer) && !s.accepted.Load() {
		conn, reader, connack, err = s.openOldBroker(ctx, s.connectPacket(opts), err)
	}
	if err != nil {
		return nil, err
	}
	s.accepted.Store(true)
	terms, err := s.negotiate(connack, opts)
	if err != nil {
		closeNow(conn)
		return nil, err
	}
	session := s.newSession(conn, reader, opts, terms)
	if opts.Mark != "" && session.limits.Present {
		found, whole, err := session.recognize(ctx, opts.Mark)
		if err != nil {
			session.end(errClosed)
			<-session.done
			return nil, s.explainMarkCheck(err)
		}
		session.limits.Resumed, session.limits.Marked = found, whole
	}
	s.cfg.Logger.Debug("the broker accepted the session", "broker", s.broker.address, "client_id", opts.ClientID,
		"present", session.limits.Present, "resumed", session.limits.Resumed, "in_flight", terms.limits.InFlight,
		"packet_bytes", terms.limits.PacketBytes, "keep_alive", terms.keepAlive, "session_expiry", terms.sessionExpiry)
	if opts.QoS == 2 && terms.sessionExpiry < min(shortExpiry, s.cfg.SessionExpiry) {
		s.warned.Do(func() {
			s.cfg.Logger.Warn("the broker keeps the sessions of disconnected clients only for a short time; after a longer outage the messages in flight count as lost",
				"session_expiry", terms.sessionExpiry, "asked_for", s.cfg.SessionExpiry)
		})
	}
	return session, nil
}

// open opens a connection and has the broker accept it.
func (s *Sink) open(ctx context.Context, connect *packets.Connect) (net.Conn, *bufio.Reader, *packets.Connack, error) {
	return s.openAt(ctx, s.broker.address, connect)
}

// openAt is open for one of the addresses that the broker's name may have.
func (s *Sink) openAt(ctx context.Context, address string, connect *packets.Connect) (net.Conn, *bufio.Reader, *packets.Connack, error) {
	conn, err := s.dialTo(ctx, address)
	if err != nil {
		return nil, nil, nil, err
	}
	// The context ends the handshake as well: closing the connection ends a read.
	stop := context.AfterFunc(ctx, func() { closeNow(conn) })
	reader := bufio.NewReaderSize(conn, readBuffer)
	connack, err := s.handshake(conn, reader, connect)
	if !stop() {
		err = s.explainTimeout(ctx)
	}
	if err != nil {
		closeNow(conn)
		return nil, nil, nil, err
	}
	return conn, reader, connack, nil
}

// handshake sends CONNECT and reads a CONNACK that accepts it.
func (s *Sink) handshake(conn io.Writer, reader *bufio.Reader, connect *packets.Connect) (*packets.Connack, error) {
	if _, err := connect.WriteTo(conn); err != nil {
		return nil, s.explainNoAnswer(err)
	}
	// Look at the first two bytes before reading a packet: a server of another protocol may never
	// send as many bytes as those seem to announce.
	head, err := reader.Peek(2)
	if err != nil {
		return nil, s.explainNoAnswer(err)
	}
	if head[0] != packets.CONNACK<<4 {
		return nil, fmt.Errorf("broker %s does not answer as an MQTT broker does: check the port, and whether it expects TLS (mqtts://)", s.broker.address)
	}
	packet, err := nextPacket(reader)
	if err != nil {
		return nil, s.explainNoAnswer(err)
	}
	connack, err := decodeConnack(packet)
	if err != nil {
		return nil, fmt.Errorf("broker %s: %w", s.broker.address, err)
	}
	if connack.ReasonCode != packets.ConnackSuccess {
		return nil, s.refusal(connack)
	}
	return connack, nil
}

// terms combine what a CONNACK says with our own configuration.
type terms struct {
	limits        driver.Limits
	keepAlive     time.Duration
	sessionExpiry time.Duration // how long the broker keeps the session after the connection has ended
}

// negotiate derives the terms from a CONNACK, or returns why we cannot work under them.
func (s *Sink) negotiate(connack *packets.Connack, opts driver.ConnectOptions) (terms, error) {
	p := connack.Properties
	maxQoS := byte(2)
	if p.MaximumQOS != nil {
		maxQoS = *p.MaximumQOS
	}
	if maxQoS < opts.QoS {
		return terms{}, &driver.ConnectRefusedError{
			Broker: s.broker.address, Code: packets.ConnackQoSNotSupported,
			Reason: fmt.Sprintf("it takes QoS %d at most, and this delivery needs QoS %d: set reactor.Config.Delivery to %s",
				maxQoS, opts.QoS, deliveryFor(maxQoS)),
		}
	}
	if id := p.AssignedClientID; id != "" {
		return terms{}, &driver.ConnectRefusedError{
			Broker: s.broker.address, Code: packets.ConnackInvalidClientID,
			Reason: "it replaces our client id by " + strconv.Quote(id) + ", and sessions could not be resumed: let it allow client ids of ours (reactor-…)",
		}
	}
	t := terms{
		limits: driver.Limits{
			InFlight: s.cfg.inFlight(opts.QoS), QoS: maxQoS,
			Present: connack.SessionPresent, Resumed: connack.SessionPresent,
		},
		keepAlive: time.Duration(s.cfg.keepAliveSeconds()) * time.Second,
	}
	if opts.Fresh && connack.SessionPresent {
		return terms{}, fmt.Errorf("broker %s: protocol error: it keeps a session that it was asked to discard", s.broker.address)
	}
	if opts.QoS > 0 {
		t.sessionExpiry = s.cfg.SessionExpiry.Truncate(time.Second)
	}
	if n := p.ReceiveMaximum; n != nil {
		t.limits.InFlight = min(t.limits.InFlight, int(*n))
		if opts.QoS == 2 {
			// Use half. The next owner that resumes the session does not know which of the messages
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
	t.limits.NoRetain = p.RetainAvailable != nil && *p.RetainAvailable == 0
	if t.limits.InFlight == 0 {
		return terms{}, fmt.Errorf("broker %s: protocol error: a Receive Maximum of 0 in CONNACK", s.broker.address)
	}
	// Server Keep Alive is the longest pause that the broker allows, so we may send more often.
	// With 0 the broker sets no limit; we still want to know whether it is there.
	if n := p.ServerKeepAlive; n != nil && *n > 0 {
		t.keepAlive = min(t.keepAlive, time.Duration(*n)*time.Second)
	}
	if n := p.SessionExpiryInterval; n != nil {
		t.sessionExpiry = time.Duration(*n) * time.Second
		if *n == 0 && opts.QoS == 2 {
			return terms{}, &driver.ConnectRefusedError{
				Broker: s.broker.address, Code: packets.ConnackImplementationSpecificError,
				Reason: "it keeps no session of a client that is away, and exactly-once needs that: let it keep sessions, or set reactor.Config.Delivery to AtLeastOnce",
			}
		}
	}
	return t, nil
}

// deliveryFor names the reactor.Delivery with the strongest promise that a QoS below 2 can keep.
func deliveryFor(maxQoS byte) string {
	if maxQoS == 0 {
		return "AtMostOnce"
	}
	return "AtLeastOnce"
}

// connectPacket requests the session as it was left, so that the exchange of a packet identifier
// can be resumed, even by a lane that itself sends only QoS 0: its last owner may have used a
// higher QoS. The session is to outlive the connection where something may have to be resumed
// later. Fresh requests a new session instead.
func (s *Sink) connectPacket(opts driver.ConnectOptions) *packets.Connect {
	ours := uint32(maxReceived)
	connect := &packets.Connect{
		ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: opts.ClientID, CleanStart: opts.Fresh,
		KeepAlive: s.cfg.keepAliveSeconds(), Properties: &packets.Properties{MaximumPacketSize: &ours},
		UsernameFlag: s.broker.username != "", Username: s.broker.username,
		PasswordFlag: s.broker.password != "", Password: []byte(s.broker.password),
	}
	if opts.QoS > 0 {
		expiry := uint32(s.cfg.SessionExpiry / time.Second)
		connect.Properties.SessionExpiryInterval = &expiry
	}
	return connect
}
