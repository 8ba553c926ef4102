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

// dial opens the network connection, including TLS and WebSocket. Each error is one line that says what to check.
func (b *broker) dial(ctx context.Context) (net.Conn, error) { return b.dialTo(ctx, b.address) }

// dialTo connects to one of the addresses that the broker's name may have.
func (b *broker) dialTo(ctx context.Context, address string) (net.Conn, error) {
	conn, err := b.cfg.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, b.explainDial(ctx, err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetNoDelay(true) // Go's default, set explicitly: without it messages would be late by milliseconds
	}
	if err := sockopt.Harden(conn, b.cfg.WriteTimeout); err != nil {
		b.cfg.Logger.Debug("cannot set the limits for a dead connection", "broker", b.address, "err", err)
	}
	secure, err := conn, error(nil)
	if b.secure {
		if secure, err = b.startTLS(ctx, conn); err != nil {
			conn.Close()
			return nil, err
		}
	}
	if b.webSocket == "" {
		return secure, nil
	}
	socket, err := b.openWebSocket(ctx, secure)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return socket, nil
}

// closeNow closes a connection at once. The Close of a tls.Conn first sends an alert, and waits up
// to five seconds for that write.
func closeNow(conn net.Conn) {
	if socket, ok := conn.(*webSocket); ok {
		socket.Close()
		return
	}
	plain(conn).Close()
}

// plain returns the connection below WebSocket and TLS.
func plain(conn net.Conn) net.Conn {
	for {
		switch c := conn.(type) {
		case *webSocket:
			conn = c.below
		case *tls.Conn:
			conn = c.NetConn()
		default:
			return conn
		}
	}
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

func (b *broker) explainDial(ctx context.Context, err error) error {
	var dnsErr *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return explained(err, "broker %s: connection refused: is the broker running, and the MQTT URL right?", b.address)
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("broker %s: %w", b.address, ctx.Err())
	case ctx.Err() != nil:
		return explained(err, "broker %s does not answer: check host, port and firewall", b.address)
	case errors.As(err, &dnsErr):
		return explained(err, "broker %s: cannot find the host: check the MQTT URL", b.address)
	}
	return fmt.Errorf("broker %s: %w", b.address, err)
}

// explainTimeout explains a handshake that the context ended.
func (b *broker) explainTimeout(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(cause, errConnectTimeout) {
		return fmt.Errorf("broker %s: %w", b.address, cause)
	}
	return explained(context.Cause(ctx), "broker %s accepts the connection and does not answer within %v: is it an MQTT broker?", b.address, b.cfg.ConnectTimeout)
}

// errNoAnswer: the connection ended during the handshake.
var errNoAnswer = errors.New("closes the connection without an answer")

func (b *broker) explainNoAnswer(err error) error {
	if refusedByPeer(err) {
		return fmt.Errorf("broker %s: TLS failed: %w: %s", b.address, err, wantsCertificate)
	}
	check := "whether it expects TLS (mqtts://)"
	if b.secure { // a broker that refuses our certificate may reset the connection before we can read why
		check = "whether it wants a certificate of ours (mqttsink.Config.CertFile and mqttsink.Config.KeyFile)"
	}
	return fmt.Errorf("broker %s %w (%w): check the port, %s, and whether it speaks MQTT 5", b.address, errNoAnswer, err, check)
}

// explainMarkCheck explains why a session was accepted and could not be checked for its mark.
func (b *broker) explainMarkCheck(err error) error {
	var refused *driver.ConnectRefusedError
	switch {
	case errors.As(err, &refused):
		return err
	case errors.Is(err, errConnectTimeout):
		return explained(err, "broker %s accepts the session and does not say within %v whether it is ours", b.address, b.cfg.ConnectTimeout)
	}
	return fmt.Errorf("broker %s: finding out whether the session is ours: %w", b.address, err)
}
