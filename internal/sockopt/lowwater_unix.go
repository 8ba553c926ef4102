//go:build unix

package sockopt

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// LowWater is a socket's receive low-water mark: how many bytes must have arrived before a reader
// is woken. One goroutine uses it.
type LowWater struct {
	socket syscall.RawConn // nil: the connection is not TCP
	bytes  int             // the current mark
}

// NewLowWater returns the mark of a connection, which may be wrapped, for example by TLS.
func NewLowWater(conn net.Conn) LowWater {
	w := LowWater{bytes: 1}
	if tcp := underlyingTCP(conn); tcp != nil {
		w.socket, _ = tcp.SyscallConn() // an error means that it is closed; the next read reports that
	}
	return w
}

// Set sets the mark to n bytes, and reports whether it is n bytes now.
func (w *LowWater) Set(n int) bool {
	if w.bytes == n {
		return true
	}
	if w.socket == nil {
		return false
	}
	var err error
	if w.socket.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, n) }) != nil || err != nil {
		return false
	}
	w.bytes = n
	return true
}
