package alarm

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// osClockWatch is a timerfd on the wall clock that never expires, but whose reads are cancelled
// when the clock is set [timerfd_create(2), TFD_TIMER_CANCEL_ON_SET].
type osClockWatch struct {
	file *os.File // nil if the kernel does not support it
	done chan struct{}
}

func (w *ClockWatch) start() {
	w.done = make(chan struct{})
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		close(w.done)
		return
	}
	w.file = os.NewFile(uintptr(fd), "timerfd")
	conn, err := w.file.SyscallConn()
	if err != nil {
		close(w.done)
		return
	}
	go func() {
		defer close(w.done)
		var expirations [8]byte
		for {
			// Use conn: the file may have been closed, and its descriptor given to another file.
			if conn.Control(arm) != nil {
				return
			}
			if _, err := w.file.Read(expirations[:]); !errors.Is(err, syscall.ECANCELED) {
				return // closed
			}
			select {
			case w.c <- struct{}{}:
			default: // a value is waiting already
			}
		}
	}()
}

func arm(fd uintptr) {
	const never = 1 << 40 // seconds since 1970
	spec := unix.ItimerSpec{Value: unix.Timespec{Sec: never}}
	// An error has one of two reasons. Either the clock was set just now; then the next read reports
	// it. Or the kernel does not support it; then the next read blocks until Close.
	_ = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &spec, nil)
}

// Close ends the ClockWatch.
func (w *ClockWatch) Close() {
	if w.file != nil {
		w.file.Close() // unblocks the reader
	}
	<-w.done
}
