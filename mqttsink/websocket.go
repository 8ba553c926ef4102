package mqttsink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// webSocket is MQTT in a WebSocket [MQTT 5, 6], as a net.Conn: each Write is a binary message, and
// what is read may begin and end anywhere in one. A deadline that passes ends the connection, as it
// ends the session that waits for it.
type webSocket struct {
	net.Conn
	socket       *websocket.Conn
	below        net.Conn     // the connection, or TLS on it
	readDeadline atomic.Int64 // in nanoseconds since 1970; 0: none
	sendDeadline atomic.Int64 // the same for writes
}

// openWebSocket asks for MQTT on a connection to the broker. Login and password are in the CONNECT
// packet, as everywhere: they are not sent by HTTP.
func (b *broker) openWebSocket(ctx context.Context, conn net.Conn) (net.Conn, error) {
	transport := &http.Transport{
		DialContext:        func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		DisableCompression: true,
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	// The scheme is http whatever the URL says: conn is encrypted already.
	socket, response, err := websocket.Dial(ctx, "http://"+b.address+b.webSocket, &websocket.DialOptions{HTTPClient: client, Subprotocols: []string{"mqtt"}})
	switch {
	case err == nil:
	case refusedByPeer(err):
		var alert *net.OpError // the texts around it show the URL, which may hold a token
		errors.As(err, &alert)
		return nil, explained(err, "broker %s: TLS failed: %v: %s", b.address, alert, wantsCertificate)
	case ctx.Err() != nil:
		return nil, b.explainTimeout(ctx)
	case response == nil:
		return nil, explained(err, "broker %s does not answer as a web server does: check the port; a broker without WebSocket has mqtt:// or mqtts:// in the URL", b.address)
	case response.StatusCode != http.StatusSwitchingProtocols:
		return nil, explained(err, "broker %s has no WebSocket there (HTTP status %d): check the path of the URL", b.address, response.StatusCode)
	default:
		return nil, explained(err, "broker %s has a WebSocket there that is none of MQTT: check port and path of the URL", b.address)
	}
	// The context is that of the connection, which Close ends.
	return &webSocket{Conn: websocket.NetConn(context.Background(), socket, websocket.MessageBinary), socket: socket, below: conn}, nil
}

// Read implements net.Conn.
func (w *webSocket) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	return n, timedOut(err, &w.readDeadline)
}

// Write implements net.Conn.
func (w *webSocket) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil // it would be an empty message
	}
	n, err := w.Conn.Write(b)
	if err != nil {
		// A long message is sent in parts, and the library does not say how many of them were sent.
		n = len(b)
	}
	return n, timedOut(err, &w.sendDeadline)
}

// SetReadDeadline implements net.Conn.
func (w *webSocket) SetReadDeadline(t time.Time) error {
	w.readDeadline.Store(nanoseconds(t))
	return w.Conn.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (w *webSocket) SetWriteDeadline(t time.Time) error {
	w.sendDeadline.Store(nanoseconds(t))
	return w.Conn.SetWriteDeadline(t)
}

// SetDeadline implements net.Conn.
func (w *webSocket) SetDeadline(t time.Time) error {
	return errors.Join(w.SetReadDeadline(t), w.SetWriteDeadline(t))
}

// RemoteAddr implements net.Conn.
func (w *webSocket) RemoteAddr() net.Addr { return w.below.RemoteAddr() }

// LocalAddr implements net.Conn.
func (w *webSocket) LocalAddr() net.Addr { return w.below.LocalAddr() }

// Close ends the connection at once, without the goodbye of a WebSocket: MQTT has one of its own.
func (w *webSocket) Close() error {
	closeNow(w.below)
	return w.socket.CloseNow()
}

func nanoseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// timedOut turns the error of a read or a write that its deadline has ended into the one that a
// connection has for that.
func timedOut(err error, deadline *atomic.Int64) error {
	if at := deadline.Load(); err != nil && at != 0 && time.Now().UnixNano() >= at {
		return fmt.Errorf("%w (%w)", os.ErrDeadlineExceeded, err)
	}
	return err
}
