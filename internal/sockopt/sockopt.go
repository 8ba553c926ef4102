// Package sockopt sets options that let a TCP connection notice when its peer is gone.
//
// A host that loses power, and a NAT that forgets a connection, send nothing. Without these
// options, data that is not acknowledged is sent again for about 15 minutes on Linux, and an idle
// connection never ends.
package sockopt

import (
	"net"
	"time"
)

const (
	// minTimeout is the time that a connection needs to send something again: Linux waits for at
	// least 200 ms before it does so for the first time.
	minTimeout = time.Second
	// probes is how many probes an idle peer gets, in the second half of timeout.
	probes = 3
)

// Harden makes the operating system end a connection when its peer has acknowledged nothing for
// timeout: nothing of what was sent or, on an idle connection, no probe. The system sends probes at
// intervals of whole seconds. Reads and writes then fail with ETIMEDOUT. A timeout below one second
// counts as one second.
//
// Only Linux has a limit for what was sent (TCP_USER_TIMEOUT). That limit also applies to a peer
// whose program reads nothing for that long while its buffers are full: the peer's system still
// answers, but accepts no data.
//
// A connection that is not TCP is left alone.
func Harden(conn net.Conn, timeout time.Duration) error {
	tcp := below(conn)
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

// below returns the TCP connection under TLS and other wrappers; nil if there is none.
func below(conn net.Conn) *net.TCPConn {
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
