//go:build unix

package sockopt

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// LowWater is a socket's receive low-water mark: how many bytes must be there before
// whoever waits for them is woken. Owned by one goroutine.
type LowWater struct {
	socket syscall.RawConn // nil: not a socket that has one
	bytes  int             // as it is set
}

// NewLowWater is that of a connection, found under TLS and other wrappers.
func NewLowWater(conn net.Conn) LowWater {
	w := LowWater{bytes: 1}
	if tcp := below(conn); tcp != nil {
		w.socket, _ = tcp.SyscallConn() // an error: it is closed, as a read will say
	}
	return w
}

// Set reports whether the mark is at n bytes now.
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
