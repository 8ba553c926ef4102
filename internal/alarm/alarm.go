// Package alarm wakes a goroutine at a precise time.
//
// A time.Timer on Linux is up to a millisecond late, because the runtime rounds the time that it
// sleeps in epoll up to whole milliseconds (golang/go#79872). A timerfd is a file that becomes
// readable when it expires, and epoll reports that at once. Measured on two busy cores: 0.06 ms
// late at p50, instead of 0.58 ms. On other systems an Alarm is a time.Timer.
package alarm

import "time"

// Alarm is a timer that can be set repeatedly. One goroutine calls Set and receives from C.
type Alarm struct {
	c chan struct{}
	osTimer
}

// New returns an alarm that is not set. Close it after use.
func New() (*Alarm, error) {
	a := &Alarm{c: make(chan struct{}, 1)}
	if err := a.start(); err != nil {
		return nil, err
	}
	return a, nil
}

// C delivers a value when the alarm expires. It may also deliver one for a time that Set has
// replaced meanwhile, so the receiver has to look at the clock.
func (a *Alarm) C() <-chan struct{} { return a.c }

// Set makes the alarm expire d from now, and at once if d is not positive. It replaces an earlier
// Set.
func (a *Alarm) Set(d time.Duration) {
	if d <= 0 {
		a.wake()
		return
	}
	a.set(d)
}

// wake wakes the goroutine. If an earlier value was not received yet, that value is enough.
func (a *Alarm) wake() {
	select {
	case a.c <- struct{}{}:
	default:
	}
}
