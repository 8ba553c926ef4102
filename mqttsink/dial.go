package mqttsink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/job-publisher/reactor/internal/sockopt"
	"github.com/job-publisher/reactor/reactor/driver"
)

// dial opens the network connection, including TLS. Each error is one line that says what to check.
func (s *Sink) dial(ctx context.Context) (net.Conn, error) { return s.dialTo(ctx, s.broker.address) }

// dialTo connects to one of the addresses that the broker's name may have.
func (s *Sink) dialTo(ctx context.Context, address string) (net.Conn, error) {
	conn, err := s.cfg.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, s.explainDial(ctx, err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetNoDelay(true) // Go's default, set explicitly: without it messages would be late by milliseconds
	}
	if err := sockopt.Harden(conn, s.cfg.WriteTimeout); err != nil {
		s.cfg.Logger.Debug("cannot set the limits for a dead connection", "broker", s.broker.address, "err", err)
	}
	if !s.broker.secure {
		return conn, nil
	}
	cfg := s.cfg.TLS.Clone()
	if cfg == nil {
		cfg = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if cfg.ServerName == "" {
		cfg.ServerName = s.broker.host
	}
	secure := tls.Client(conn, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		if errors.Is(err, context.Canceled) {
			return nil, fmt.Errorf("broker %s: %w", s.broker.address, err)
		}
		return nil, fmt.Errorf("broker %s: TLS failed: %w: is this its TLS port, and its certificate trusted?", s.broker.address, err)
	}
	return secure, nil
}

// closeNow closes a connection at once. The Close of a tls.Conn first sends an alert, and waits up
// to five seconds for that write.
func closeNow(conn net.Conn) { plain(conn).Close() }

// plain returns the connection below TLS.
func plain(conn net.Conn) net.Conn {
	if secure, ok := conn.(*tls.Conn); ok {
		return secure.NetConn()
	}
	return conn
}

// explainedError says in one line what is wrong and what to check. It unwraps to the error that it
// stands for, so that a program can ask for that with errors.As and errors.Is.
type explainedError struct {
	text  string
	cause error
}

func (e *explainedError) Error() string { return e.text }
func (e *explainedError) Unwrap() error { return e.cause }

// explained puts a text in the place of an error's own.
func explained(cause error, format string, args ...any) error {
	return &explainedError{fmt.Sprintf(format, args...), cause}
}

func (s *Sink) explainDial(ctx context.Context, err error) error {
	var dnsErr *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return explained(err, "broker %s: connection refused: is the broker running, and the MQTT URL right?", s.broker.address)
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("broker %s: %w", s.broker.address, ctx.Err())
	case ctx.Err() != nil:
		return explained(err, "broker %s does not answer: check host, port and firewall", s.broker.address)
	case errors.As(err, &dnsErr):
		return explained(err, "broker %s: cannot find the host: check the MQTT URL", s.broker.address)
	}
	return fmt.Errorf("broker %s: %w", s.broker.address, err)
}

// explainTimeout explains a handshake that the context ended.
func (s *Sink) explainTimeout(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(cause, errConnectTimeout) {
		return fmt.Errorf("broker %s: %w", s.broker.address, cause)
	}
	return explained(context.Cause(ctx), "broker %s accepts the connection and does not answer within %v: is it an MQTT broker?", s.broker.address, s.cfg.ConnectTimeout)
}

// errNoAnswer: the connection ended during the handshake.
var errNoAnswer = errors.New("closes the connection without an answer")

func (s *Sink) explainNoAnswer(err error) error {
	return fmt.Errorf("broker %s %w (%w): check the port, whether it expects TLS (mqtts://), and whether it speaks MQTT 5", s.broker.address, errNoAnswer, err)
}

// explainMarkCheck explains why a session was accepted and could not be checked for its mark.
func (s *Sink) explainMarkCheck(err error) error {
	var refused *driver.ConnectRefusedError
	switch {
	case errors.As(err, &refused):
		return err
	case errors.Is(err, errConnectTimeout):
		return explained(err, "broker %s accepts the session and does not say within %v whether it is ours", s.broker.address, s.cfg.ConnectTimeout)
	}
	return fmt.Errorf("broker %s: finding out whether the session is ours: %w", s.broker.address, err)
}
