package alarm

// ClockWatch reports when the host's wall clock is set. It does not report corrections by slewing,
// as a time daemon makes them. It works on Linux only; on other systems C delivers nothing.
type ClockWatch struct {
	c chan struct{}
	osClockWatch
}

// WatchClock begins to watch. Close the ClockWatch after use.
func WatchClock() *ClockWatch {
	w := &ClockWatch{c: make(chan struct{}, 1)}
	w.start()
	return w
}

// C delivers a value after the clock was set, and a single value if it was set several times since
// the last one.
func (w *ClockWatch) C() <-chan struct{} { return w.c }
