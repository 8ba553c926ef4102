package reactor

import (
	"time"

	"github.com/job-publisher/reactor/internal/alarm"
)

// timers makes the alarms of the goroutines that wait for an instant, and the watch that tells
// when the host's clock is set. In production both use files of the kernel; tests replace them.
type timers struct {
	newAlarm   func() (waker, error)
	watchClock func() clockWatch
}

// waker is an alarm.Alarm. A waker wakes the goroutine that owns it at an instant, or shortly
// after.
type waker interface {
	// Set replaces the instant by the one d from now. If d is not positive, the waker fires at
	// once.
	Set(d time.Duration)
	C() <-chan struct{}
	Close()
}

// clockWatch is an alarm.ClockWatch.
type clockWatch interface {
	C() <-chan struct{}
	Close()
}

// kernelTimers are the timers of production: the kernel's, which are more precise than Go's.
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
