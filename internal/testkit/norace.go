//go:build !race

package testkit

// raceEnabled reports whether the tests run with the race detector.
const raceEnabled = false
