//go:build !linux

package alarm

type osClockWatch struct{}

func (w *ClockWatch) start() {}

// Close ends the ClockWatch.
func (w *ClockWatch) Close() {}
