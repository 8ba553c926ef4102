// Package sockopt makes a TCP connection notice that nobody is at its other end.
//
// A host that loses power and a NAT that forgets a flow send nothing: without these options
// data that nobody acknowledges is sent again for about 15 minutes on Linux, and an idle
// connection is never found out.
package sockopt

import (
	"net"
	"time"
)

const (
	// minPatience is no less than a connection needs to send something again: Linux waits
	// for 200 ms at least before it does so first.
	minTimeout = time.Second
	// probes is how often an idle peer is asked, in the second half of patience.
	probes = 3
)

// Harden has the system end a connection when its peer has acknowledged nothing for
// patience, of what was sent or, on an idle connection, of probes that it sends itself in
// whole seconds. Reads and writes then fail with ETIMEDOUT. Patience below a second is taken
// for one.
//
// Only Linux has a limit for what was sent (TCP_USER_TIMEOUT). It holds for a peer, too,
// whose program reads nothing for as long while its buffers are full: the peer's system
// answers then, and yet takes nothing.
//
// What is no TCP connection is left alone.
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

// below finds the TCP connection under TLS and other wrappers.
func below(conn net.Conn) *net.TCPConn {
	for {
		switch c := conn.(type) {
		case *net.TCPConn:
			return c
		case interface{ NetConn() net.Conn }: // as crypto/tls has it
			conn = c.NetConn()
		default:
			return nil
		}
	}
}
