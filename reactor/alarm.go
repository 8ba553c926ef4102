package reactor

import (
	"time"

	"github.com/job-publisher/reactor/internal/alarm"
)

// timers are what is made for each goroutine that waits for an instant, or for the host's
// clock to be set: files of the kernel, which tests replace.
type timers struct {
	newAlarm   func() (waker, error)
	watchClock func() clockWatch
}

// waker is an alarm.Alarm: it wakes the goroutine that owns it at an instant, or a moment later.
type waker interface {
	// Set replaces the instant: d from now, at once if d is not positive.
	Set(d time.Duration)
	C() <-chan struct{}
	Close()
}

// clockWatch is an alarm.ClockWatch.
type clockWatch interface {
	C() <-chan struct{}
	Close()
}

// kernelTimers are the precise ones.
func kernelTimers() timers {
	return timers{
		newAlarm: func() (waker, error) {
			a, err := alarm.New()
			if err != nil {
				return nil, err
			}
			return a, nil
		},
		watchClock: func() clockWatch { return alarm.WatchClock() },
	}
}
