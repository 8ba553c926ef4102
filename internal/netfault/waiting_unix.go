//go:build unix

package netfault

import (
	"net"
	"syscall"
)

// readWaiting reads what the kernel has received for a connection, without blocking.
func readWaiting(conn *net.TCPConn, buf []byte) (n int) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	if err := raw.Control(func(fd uintptr) { n, _ = syscall.Read(int(fd), buf) }); err != nil {
		return 0
	}
	return n
}
