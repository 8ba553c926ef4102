package alarm

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// osTimer is a timerfd and the goroutine that reads it.
type osTimer struct {
	fd   int
	file *os.File
	done chan struct{}
}

func (a *Alarm) start() error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("create timerfd: %w", err)
	}
	// The descriptor is non-blocking, so the runtime reads the file through its poller.
	a.fd, a.file, a.done = fd, os.NewFile(uintptr(fd), "timerfd"), make(chan struct{})
	go func() {
		defer close(a.done)
		var expirations [8]byte
		for {
			if _, err := a.file.Read(expirations[:]); err != nil {
				return // closed
			}
			a.wake()
		}
	}()
	return nil
}

func (a *Alarm) set(d time.Duration) {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	if err := unix.TimerfdSettime(a.fd, 0, &spec, nil); err != nil {
		panic(fmt.Sprintf("alarm: set timerfd to %v: %v", d, err))
	}
}

// Close releases the timer. Set must not be called after it.
func (a *Alarm) Close() {
	a.file.Close() // unblocks the reader
	<-a.done
}
