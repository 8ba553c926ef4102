package alarm

// ClockWatch reports when the host's wall clock is set. It does not report the small corrections
// that a time daemon makes by slewing. It works on Linux only; on other systems C delivers nothing.
type ClockWatch struct {
	c chan struct{}
	osClockWatch
}

// WatchClock starts a ClockWatch. Close it after use.
func WatchClock() *ClockWatch {
	w := &ClockWatch{c: make(chan struct{}, 1)}
	w.start()
	return w
}

// C delivers a value after the clock was set. If the clock was set several times since the last
// value was received, C delivers one value only.
func (w *ClockWatch) C() <-chan struct{} { return w.c }
