//go:build unix

package sockopt

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Immediate writes to a TCP connection what the socket takes without waiting. One goroutine at a
// time writes, whether by Immediate or by the connection itself.
type Immediate struct {
	socket syscall.RawConn // nil: nothing can be written
}

// NewImmediate returns the Immediate of a connection. It writes nothing if the connection is wrapped,
// for example by TLS: the bytes have to pass the wrapper.
func NewImmediate(conn net.Conn) Immediate {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return Immediate{}
	}
	socket, err := tcp.SyscallConn()
	if err != nil { // it is closed; the next write reports that
		return Immediate{}
	}
	return Immediate{socket}
}

// Possible reports whether anything can be written.
func (w Immediate) Possible() bool { return w.socket != nil }

// Write returns how many bytes the socket has taken. It does not say why it took no more: a write
// to the connection will report an error again.
func (w Immediate) Write(b []byte) (taken int) {
	// Control keeps the descriptor open, and waits for nobody. Sockets of Go do not block.
	_ = w.socket.Control(func(fd uintptr) {
		if n, err := unix.Write(int(fd), b); err == nil {
			taken = n
		}
	})
	return taken
}
