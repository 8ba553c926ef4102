//go:build unix

package mqttsink

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// lowWater is a socket's receive low-water mark: how many bytes must be there before
// whoever waits for them is woken. Owned by one goroutine.
type lowWater struct {
	socket syscall.RawConn // nil: not a socket that has one
	bytes  int             // as it is set
}

func newLowWater(conn net.Conn) lowWater {
	w := lowWater{bytes: 1}
	if c, ok := plain(conn).(*net.TCPConn); ok {
		w.socket, _ = c.SyscallConn() // an error: it is closed, as a read will say
	}
	return w
}

// set reports whether the mark is at n bytes now.
func (w *lowWater) set(n int) bool {
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
