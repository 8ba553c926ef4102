package mqttsink

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor/driver"
)

// broker is one of the brokers of Config.URL. Any goroutine may use it.
type broker struct {
	location
	cfg    *Config
	direct bool // connections are made by ourselves, so their addresses are the broker's
	login  login
	tls    *tlsSettings
	choice *choice

	// The next three are guarded by the choice's mu, see working.go and suspicion.go.
	vouched   time.Time // when it was found to work, after a doubt
	vouchers  int       // how many ends of sessions this still covers
	unreached time.Time // since when it could not be reached each time that it was to be asked, and no lane has failed to connect; zero: it could

	warned      sync.Once // a short session expiry was logged
	closeCounts closeCounts
	accepted    atomic.Bool // the broker has accepted a session, so it speaks MQTT 5
}

// shortExpiry is a session expiry that is shorter than an ordinary outage may be.
const shortExpiry = 10 * time.Minute

// errConnectTimeout is the cause of a context that ended because of Config.ConnectTimeout, and not
// because of the caller.
var errConnectTimeout = errors.New("connect timeout")

// newBrokers checks the configuration.
func newBrokers(cfg *Config, direct bool) ([]*broker, error) {
	var brokers []*broker
	secure := false
	for _, text := range splitURLs(cfg.URL) {
		b := &broker{cfg: cfg, direct: direct}
		var err error
		if b.location, b.login, err = parseURL(text); err != nil {
			return nil, err
		}
		if err := b.login.override(cfg); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(brokers, func(other *broker) bool { return other.address == b.address }) {
			return nil, badURL("names " + b.address + " twice")
		}
		// Else whoever keeps us from the one with TLS would get the password and the payloads in clear.
		if secure = b.secure; len(brokers) > 0 && secure != brokers[0].secure {
			return nil, badURL("names brokers with TLS and without: use TLS (mqtts://, wss://) for all of them, or for none")
		}
		brokers = append(brokers, b)
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	settings, err := newTLSSettings(cfg, secure)
	for _, b := range brokers {
		b.tls = settings
	}
	return brokers, err
}

// connect is Sink.Connect at this broker.
func (b *broker) connect(ctx context.Context, opts driver.ConnectOptions) (driver.Session, error) {
	return b.connectVia(ctx, opts, b)
}

// connectVia is connect for a session that counts for another broker (route). If the broker closes the connection without an answer,
// and has not accepted a session before, connectVia finds out whether the broker speaks MQTT 3.1.1
// only (mqtt311.go).
func (b *broker) connectVia(ctx context.Context, opts driver.ConnectOptions, via *broker) (driver.Session, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.ConnectTimeout, errConnectTimeout)
	defer cancel()
	conn, reader, connack, err := b.open(ctx, b.connectPacket(opts))
	if errors.Is(err, errNoAnswer) && !b.accepted.Load() {
		conn, reader, connack, err = b.openOldBroker(ctx, b.connectPacket(opts), err)
	}
	if err != nil {
		return nil, err
	}
	b.accepted.Store(true)
	terms, err := b.negotiate(connack, opts)
	if err != nil {
		closeNow(conn)
		return nil, err
	}
	session := b.newSession(conn, reader, opts, terms, via)
	if opts.Mark != "" && session.limits.Present {
		found, whole, err := session.recognize(ctx, opts)
		if err != nil {
			why := err
			if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, errConnectTimeout) {
				why = errClosed // the caller has ended it
			}
			session.end(why)
			<-session.done
			return nil, b.explainMarkCheck(err)
		}
		session.limits.Resumed, session.limits.Marked = found, whole
	}
	session.limits.Standby = b.choice.accepted(session) // not before: a broker that does not answer is none to stay at
	b.cfg.Logger.Debug("the broker accepted the session", "broker", b.address, "client_id", opts.ClientID,
		"present", session.limits.Present, "resumed", session.limits.Resumed, "in_flight", terms.limits.InFlight,
		"packet_bytes", terms.limits.PacketBytes, "keep_alive", terms.keepAlive, "session_expiry", terms.sessionExpiry)
	if opts.QoS == 2 && terms.sessionExpiry < min(shortExpiry, b.cfg.SessionExpiry) {
		b.warned.Do(func() {
			b.cfg.Logger.Warn("the broker keeps the sessions of disconnected clients only for a short time; after a longer outage the messages in flight count as lost",
				"session_expiry", terms.sessionExpiry, "asked_for", b.cfg.SessionExpiry)
		})
	}
	return session, nil
}

// open opens a connection and has the broker accept it.
func (b *broker) open(ctx context.Context, connect *packets.Connect) (net.Conn, *bufio.Reader, *packets.Connack, error) {
	return b.openAt(ctx, b.address, connect)
}

// openAt is open for one of the addresses that the broker's name may have.
func (b *broker) openAt(ctx context.Context, address string, connect *packets.Connect) (net.Conn, *bufio.Reader, *packets.Connack, error) {
	conn, err := b.dialTo(ctx, address)
	if err != nil {
		return nil, nil, nil, err
	}
	// The context ends the handshake as well: closing the connection ends a read.
	stop := context.AfterFunc(ctx, func() { closeNow(conn) })
	reader := bufio.NewReaderSize(conn, readBuffer)
	connack, err := b.handshake(conn, reader, connect)
	if !stop() {
		err = b.explainTimeout(ctx)
	}
	if err != nil {
		closeNow(conn)
		return nil, nil, nil, err
	}
	return conn, reader, connack, nil
}

// handshake sends CONNECT and reads a CONNACK that accepts it.
func (b *broker) handshake(conn io.Writer, reader *bufio.Reader, connect *packets.Connect) (*packets.Connack, error) {
	if _, err := connect.WriteTo(conn); err != nil {
		return nil, b.explainNoAnswer(err)
	}
	// Look at the first two bytes before reading a packet: a server of another protocol may never
	// send as many bytes as those seem to announce.
	head, err := reader.Peek(2)
	if err != nil {
		return nil, b.explainNoAnswer(err)
	}
	if head[0] != packets.CONNACK<<4 {
		return nil, fmt.Errorf("broker %s does not answer as an MQTT broker does: check the port, and whether it expects TLS (mqtts://) or a WebSocket (ws://)", b.address)
	}
	packet, err := nextPacket(reader)
	if err != nil {
		return nil, b.explainNoAnswer(err)
	}
	connack, err := decodeConnack(packet)
	if err != nil {
		return nil, fmt.Errorf("broker %s: %w", b.address, err)
	}
	if connack.ReasonCode != packets.ConnackSuccess {
		return nil, b.refusal(connack)
	}
	return connack, nil
}
