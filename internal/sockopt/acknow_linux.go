package sockopt

import "golang.org/x/sys/unix"

// AckNow makes the kernel acknowledge at once what was read. Otherwise the kernel waits up to 40 ms
// for data of ours, to send the acknowledgement with it (delayed acknowledgement). A broker that uses
// Nagle's algorithm, as Mosquitto does by default, does not send its next answer before it has the
// acknowledgement; and at QoS 2 a message needs two answers.
func (w *LowWater) AckNow() {
	if w.socket == nil {
		return
	}
	// If this fails, the kernel delays the acknowledgement as it does by default.
	_ = w.socket.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) })
}
