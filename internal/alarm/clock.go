package alarm

// ClockWatch tells when somebody sets the host's wall clock. Corrections by slewing, as a
// time daemon makes them, are none. Only Linux tells; elsewhere C stays silent.
type ClockWatch struct {
	c chan struct{}
	osClockWatch
}

// WatchClock begins to watch. Close it when done.
func WatchClock() *ClockWatch {
	w := &ClockWatch{c: make(chan struct{}, 1)}
	w.start()
	return w
}

// C delivers a value when the clock has been set, one for several times at once.
func (w *ClockWatch) C() <-chan struct{} { return w.c }
