//go:build unix

package sockopt

import (
	"net"

	"golang.org/x/sys/unix"
)

// Immediate returns a function that writes to a TCP connection what the socket takes without
// waiting, and returns how many bytes that are. It does not say why the socket takes no more: the
// next write to the connection will. One goroutine at a time may write, in whichever way.
//
// It returns nil if the connection is wrapped, for example by TLS: the bytes have to pass the
// wrapper.
func Immediate(conn net.Conn) func([]byte) int {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	socket, err := tcp.SyscallConn()
	if err != nil { // it is closed; the next write reports that
		return nil
	}
	return func(b []byte) (taken int) {
		// Control keeps the descriptor open, and waits for nobody.
		_ = socket.Control(func(fd uintptr) {
			if n, err := unix.SendmsgN(int(fd), b, nil, nil, unix.MSG_DONTWAIT); err == nil {
				taken = n
			}
		})
		return taken
	}
}
