// Package bench measures a deployment from outside. It inserts jobs by SQL, a subscriber
// records the time of each message, and the CPU time and memory of the processes come from
// /proc.
//
//	bench.go          the run: its trials; their results are in result.go; table.go and
//	                  sheet.go write them as text, charts.go, plot.go and report.go draw them
//	steps.go          which trials there are in a round
//	rounds.go         the rounds, their medians and ratios
//	trial.go          one trial: load, drainer, subscriber, comparison with the table
//	load.go           the jobs; stored.go: rows beside them that are not due; beside.go: jobs
//	                  of another application
//	snapshot.go       an old snapshot; slices.go: what it costs over time
//	drainers.go       the processes that publish the jobs: instances of reactor, or
//	ceiling.go        the bare claim and the bare broker together
//	                  (ceiling_parts.go: each alone), or
//	floor.go          a timer and one packet for each job, or
//	poller.go         the poller that reactor replaces
//	bare.go           what ceiling.go, ceiling_parts.go and poller.go have in common,
//	publisher.go      and how they publish
//	subscriber.go     the subscriber
//	usage.go          CPU time, memory and statements
//
// All trials of a run use the same table, broker and subscriber, one after the other.
// Other programs use the machine too, so only the ratios between trials are meaningful.
//
// Lateness is what a subscriber observes: the time from fire_at on the database's clock to
// the read from the socket that returned the message. If the bench runs on the database's
// host, both have the same clock.
package bench
