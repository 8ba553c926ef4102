package netfault

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Blackhole makes the system drop everything that arrives from now on over a connection of
// this process. Its peer gets no answer any more, not even an acknowledgement, as from a host
// that has lost power. (If only the program is stopped, its system still acknowledges.) It
// needs no privilege: it is a socket filter that accepts nothing [socket(7), SO_ATTACH_FILTER].
func Blackhole(conn *net.TCPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K} // how much of a packet to keep: 0
	var optErr error
	err = raw.Control(func(fd uintptr) {
		optErr = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop})
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("setsockopt", optErr)
}
