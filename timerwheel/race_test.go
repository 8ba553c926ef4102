//go:build race

package timerwheel

// The race detector makes everything ten times slower.
const manyEntries = 1_000_000
