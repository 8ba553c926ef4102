package mqttsink

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor"
)

// Sink connects lanes to one broker.
type Sink struct {
	cfg    Config
	broker broker
}

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

// readBuffer takes some thousand acknowledgements at once.
const readBuffer = 32 << 10

// Connect implements reactor.Sink.
func (s *Sink) Connect(ctx context.Context, opts reactor.ConnectOptions) (reactor.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ConnectTimeout)
	defer cancel()
	conn, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	// The handshake ends with the context, too: closing the connection ends a read.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	reader := bufio.NewReaderSize(conn, readBuffer)
	accepted, err := s.handshake(conn, reader, opts)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("broker %s accepts the connection and does not answer: is it an MQTT broker?", s.broker.address)
		}
		return nil, err
	}
	return newSession(s.cfg, opts, conn, reader, accepted), nil
}

func (s *Sink) dial(ctx context.Context) (net.Conn, error) {
	conn, err := s.cfg.Dial(ctx, "tcp", s.broker.address)
	if err != nil {
		return nil, s.explainDial(err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetNoDelay(true) // Go's default, and what a millisecond rests on
	}
	if !s.broker.secure {
		return conn, nil
	}
	cfg := s.cfg.TLS.Clone()
	if cfg == nil {
		cfg = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if cfg.ServerName == "" {
		cfg.ServerName, _, _ = net.SplitHostPort(s.broker.address)
	}
	secure := tls.Client(conn, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("broker %s: TLS failed: %w: is this its TLS port, and its certificate trusted?", s.broker.address, err)
	}
	return secure, nil
}

func (s *Sink) explainDial(err error) error {
	var dnsErr *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("broker %s: connection refused: is the broker running, and the MQTT URL right?", s.broker.address)
	case errors.As(err, &dnsErr):
		return fmt.Errorf("broker %s: cannot find the host: check the MQTT URL", s.broker.address)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("broker %s does not answer: check host, port and firewall", s.broker.address)
	}
	return fmt.Errorf("broker %s: %w", s.broker.address, err)
}

// handshake sends CONNECT and reads CONNACK.
func (s *Sink) handshake(conn net.Conn, reader *bufio.Reader, opts reactor.ConnectOptions) (*packets.Connack, error) {
	if _, err := s.connectPacket(opts).WriteTo(conn); err != nil {
		return nil, fmt.Errorf("broker %s: %w", s.broker.address, err)
	}
	// Look before reading: a server of another protocol may never send as many bytes as
	// its first two seem to announce.
	head, err := reader.Peek(2)
	switch {
	case err != nil:
		return nil, fmt.Errorf("broker %s hangs up without an answer: check the port, and whether it expects TLS (mqtts://)", s.broker.address)
	case head[0] != packets.CONNACK<<4:
		return nil, fmt.Errorf("broker %s does not answer as an MQTT broker does: check the port, and whether it expects TLS (mqtts://)", s.broker.address)
	case head[1] == 2:
		// Two bytes without properties: an answer of MQTT 3.1.1.
		return nil, s.refusal(packets.ConnackUnsupportedProtocolVersion)
	}
	if err := checkLength(reader); err != nil {
		return nil, fmt.Errorf("broker %s: CONNACK: %w", s.broker.address, err)
	}
	packet, err := packets.ReadPacket(reader)
	if err != nil {
		return nil, fmt.Errorf("broker %s: CONNACK: %w", s.broker.address, err)
	}
	connack := packet.Content.(*packets.Connack) // by its first byte
	if connack.ReasonCode != packets.ConnackSuccess {
		return nil, s.refusal(connack.ReasonCode)
	}
	if max := connack.Properties.MaximumQOS; max != nil && *max < opts.Delivery.QoS() {
		return nil, &reactor.ConnectRefusedError{
			Broker: s.broker.address, Code: packets.ConnackQoSNotSupported,
			Reason: fmt.Sprintf("it takes QoS %d at most, and %v needs QoS %d: use --delivery %v", *max, opts.Delivery, opts.Delivery.QoS(), reactor.AtMostOnce),
		}
	}
	return connack, nil
}

func (s *Sink) connectPacket(opts reactor.ConnectOptions) *packets.Connect {
	keepAlive := (s.cfg.KeepAlive + time.Second - 1) / time.Second
	connect := &packets.Connect{
		ProtocolName: "MQTT", ProtocolVersion: 5, Properties: &packets.Properties{},
		ClientID: opts.ClientID, KeepAlive: uint16(keepAlive),
	}
	maximum := uint32(maxAnswer)
	connect.Properties.MaximumPacketSize = &maximum
	if opts.Delivery.QoS() == 0 {
		// Nothing is ever resumed.
		connect.CleanStart = true
	} else {
		expiry := uint32(s.cfg.SessionExpiry / time.Second)
		connect.Properties.SessionExpiryInterval = &expiry
	}
	if s.broker.login {
		connect.UsernameFlag, connect.Username = true, s.broker.username
		connect.PasswordFlag, connect.Password = true, []byte(s.broker.password)
	}
	return connect
}
