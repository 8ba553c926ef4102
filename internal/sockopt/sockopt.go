// Package sockopt sets options by which a TCP connection detects that its peer is unreachable.
//
// When a host loses power, or a NAT drops the state of a connection, the other side gets no packet
// about it. Without these options, Linux sends data that is not acknowledged again for about 15
// minutes, and an idle connection never ends.
package sockopt

import (
	"net"
	"time"
)

const (
	// minTimeout leaves enough time for retransmissions: Linux waits at least 200 ms before the
	// first one.
	minTimeout = time.Second
	// probes is how many keepalive probes are sent on an idle connection, in the second half of
	// the timeout.
	probes = 3
)

// Harden makes the operating system end a connection when its peer has acknowledged nothing for
// timeout: no data or, on an idle connection, no keepalive probe. Reads and writes then fail with
// ETIMEDOUT. The system sends probes at intervals of whole seconds. A timeout below one second
// counts as one second.
//
// Only Linux has a limit for unacknowledged data (TCP_USER_TIMEOUT). The limit also applies if the
// peer's program does not read for that long and its buffers are full: the peer's system still
// answers, but accepts no data.
//
// Harden does nothing with a connection that is not TCP.
func Harden(conn net.Conn, timeout time.Duration) error {
	tcp := underlyingTCP(conn)
	if tcp == nil {
		return nil
	}
	timeout = max(timeout, minTimeout)
	interval := max(time.Second, (timeout / (2 * probes)).Round(time.Second))
	idle := max(time.Second, (timeout - probes*interval).Truncate(time.Second))
	err := tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: idle, Interval: interval, Count: probes})
	if err != nil {
		return err
	}
	return limitUnacknowledged(tcp, timeout)
}

// underlyingTCP returns the TCP connection inside TLS and other wrappers, or nil if there is none.
func underlyingTCP(conn net.Conn) *net.TCPConn {
	for {
		switch c := conn.(type) {
		case *net.TCPConn:
			return c
		case interface{ NetConn() net.Conn }: // a method of crypto/tls connections
			conn = c.NetConn()
		default:
			return nil
		}
	}
}
