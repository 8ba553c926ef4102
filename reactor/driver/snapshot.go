package driver

import "time"

// Snapshot is how an instance is doing, for people who look at all instances together. Nothing in the program is decided
// by it.
type Snapshot struct {
	// Ready tells that due jobs are published; Problems says in words what is wrong.
	Ready    bool
	Problems []string
	// Published and Failed are jobs that have ended since the instance was started: acknowledged by the broker, and
	// given up.
	Published, Failed int64
	// Pending jobs wait in memory, InFlight ones are claimed and not settled.
	Pending, InFlight int64
	// Shards owned; LanesUp of the Lanes wanted are connected.
	Shards, Lanes, LanesUp int64
	// OldestDue is the age of the oldest due job that the broker has not accepted; 0 if none is due.
	OldestDue time.Duration
	// Recent is the lateness of the jobs that were accepted lately.
	Recent Recent
	// History is the last minutes.
	History History
}

// Recent is how late the jobs of the last Window were when the broker had accepted them, against fire_at on the
// database's clock. The percentiles are too large by a hundredth at most.
type Recent struct {
	Window        time.Duration
	Jobs          int64
	P50, P99, Max time.Duration // 0 if there were no Jobs
}
