package sockopt

import "golang.org/x/sys/unix"

// AckNow has the kernel acknowledge what was read, rather than wait for up to 40 ms for
// something of ours to send along with it. A broker with Nagle's algorithm, like Mosquitto
// by default, holds its next answer back until then; at QoS 2 a message needs two of them.
func (w *LowWater) AckNow() {
	if w.socket == nil {
		return
	}
	// An error: it waits, as it did without us.
	_ = w.socket.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) })
}
