//go:build !race

package timerwheel

const (
	manyEntries = 10_000_000
	maxRatio    = 0.4
)
