//go:build !race

package testkit

// raceEnabled: the tests run under the race detector.
const raceEnabled = false
