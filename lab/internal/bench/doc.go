// Package bench measures a deployment from outside: jobs go in by plain SQL, a subscriber
// of its own takes the time of each message, and processes are judged by /proc.
//
//	bench.go       the run: which trials, and what they come to (result.go, table.go, plot.go)
//	trial.go       one of them: load, drainer, subscriber, judge
//	load.go        the jobs
//	drainers.go    the processes that publish them: instances of reactor, or
//	ceiling.go     the bare claim and the bare broker, with nothing between them
//	               (halves.go: each by itself), or
//	poller.go      the poller that reactor replaces (bare.go is what those two share)
//	watcher.go     the subscriber
//	usage.go       what processes take
//
// All drain the same table into the same broker past the same subscriber, one after
// the other in one run: on a machine that others use as well only their ratios mean
// anything.
//
// Lateness is what a subscriber sees: from fire_at on the database's clock (the bench's
// own, they share a host) to the read from the socket that brought the message.
package bench
