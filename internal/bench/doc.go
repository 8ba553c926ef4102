// Package bench measures a deployment from outside: jobs go in by plain SQL, a subscriber
// of its own takes the time of each message, and processes are judged by /proc.
//
//	ceiling    the bare claim and the bare broker, with nothing between them
//	baseline   the poller that reactor replaces
//	reactor    one or more instances, as processes
//
// All three drain the same table into the same broker past the same subscriber, one after
// the other in one run: on a machine that others use as well only their ratios mean
// anything.
//
// Lateness is what a subscriber sees: from fire_at on the database's clock (the bench's
// own, they share a host) to the read from the socket that brought the message.
package bench
