// Package wheelbench measures the timer wheel against the published one of nats-server, in one
// process, since only the ratio means something on another machine. What it is measured
// against without a further module, the heap and Go's own timers, is in package timerwheel.
package wheelbench
