package sockopt

import "golang.org/x/sys/unix"

// AckNow makes the kernel acknowledge what was read at once, instead of waiting for up to 40 ms for
// data of ours to send along. A broker that uses Nagle's algorithm, as Mosquitto does by default,
// holds its next answer back until then; at QoS 2 a message needs two answers.
func (w *LowWater) AckNow() {
	if w.socket == nil {
		return
	}
	// After an error the kernel waits, as it does without this call.
	_ = w.socket.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) })
}
