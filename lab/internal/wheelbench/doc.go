// Package wheelbench compares the timer wheel with the published one of nats-server. Both run in
// one process, because on another machine only the ratio is meaningful. The comparisons that
// need no further module, with a heap and with Go's timers, are in package timerwheel.
package wheelbench
