//go:build !linux

package alarm

import "time"

// osTimer is the runtime's own timer.
type osTimer struct{ timer *time.Timer }

func (a *Alarm) start() error {
	a.timer = time.AfterFunc(time.Hour, a.wake)
	a.timer.Stop()
	return nil
}

func (a *Alarm) set(d time.Duration) { a.timer.Reset(d) }

// Close releases the timer. Set must not be called after it.
func (a *Alarm) Close() { a.timer.Stop() }
