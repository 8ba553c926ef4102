//go:build !race

package timerwheel

const manyEntries = 10_000_000
