//go:build race

package timerwheel

// The race detector makes everything ten times slower, and the wheel more than the heap.
const (
	manyEntries = 1_000_000
	maxRatio    = 0.5
)
