package bench

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/job-publisher/reactor/reactor"
)

// Config says what to measure.
type Config struct {
	// DatabaseURL and BrokerURL are the servers to use. The database must be migrated. If both
	// are empty, Run starts a PostgreSQL and a Mosquitto.
	DatabaseURL, BrokerURL string
	// Fsync makes the PostgreSQL that Run starts wait for the disk at each commit, as in
	// production. Without it the speed of the disk has no influence.
	Fsync bool
	// Program is the path of reactor, for the instances.
	Program string
	// Drainer is the path of a program whose command bench-drain calls Bare.Drain. It is
	// started for the measurements that reactor is compared with.
	Drainer string
	// Instances is how many instances to start; 0 means those that already run. MoreInstances
	// are further numbers to measure in the same run.
	Instances     int
	MoreInstances []int
	Delivery      reactor.Delivery
	Lanes         int
	// InstanceFlags are given to all instances, in addition to ours ("--stage=off").
	// CompareFlags, if there are any, measures reactor twice: without and with these flags.
	InstanceFlags, CompareFlags []string

	Load Load

	// Baseline, if set, is also measured: Poller, in a backlog with fewer jobs (see
	// baselineJobs), or River.
	Baseline Kind
	Poll     Poll
	// Ceiling also measures the bare claim, the bare broker, and both together.
	Ceiling bool
	// Floor also measures the floor, and at exactly-once the floor of QoS 1 as well.
	Floor bool
	// Rounds is how often everything is measured, in turn. Defaults to 1.
	Rounds int

	// HoldSnapshot measures reactor a second time, and the baseline, while another connection
	// holds a snapshot from before the first job.
	HoldSnapshot bool

	// Progress, if set, is called a few times a second by one goroutine.
	Progress func(Progress)
}

// Load says how many jobs there are and when they are due. Without Rate, Spread and
// SameInstant all are due when the measurement starts: a backlog.
type Load struct {
	Jobs        int           `json:"jobs"`
	Rate        float64       `json:"rate"`      // jobs per second, evenly paced
	Spread      time.Duration `json:"spread_ns"` // at random times within it
	SameInstant bool          `json:"same_instant"`
	// Idle measures instances that have no jobs, for this time.
	Idle time.Duration `json:"idle_ns"`
	// Ahead is how long before the first fire_at the jobs are inserted, unless they are a
	// backlog. Defaults to 2 s, or to 4 s for SameInstant.
	Ahead        time.Duration `json:"ahead_ns"`
	PayloadBytes int           `json:"payload_bytes"`
	Topics       int           `json:"topics"`
	// Pending rows are due next month, Processed rows are done with. Reactor is measured without
	// them first, and then with them in the table.
	Pending   int `json:"pending"`
	Processed int `json:"processed"`
	// Beside is how many small jobs a second fall due at their time while the load is published.
	// UrgentEvery is how often one is inserted that is due at once.
	Beside      float64       `json:"beside"`
	UrgentEvery time.Duration `json:"urgent_every_ns"`
}

// Poll configures the baseline. Every Every, the poller reads up to Rows rows, publishes them and
// marks them as processed. River looks for jobs as often, and takes as many as it can work on.
type Poll struct {
	Rows  int
	Every time.Duration
}

// Progress is the progress of a measurement, in received jobs, or in seconds for Load.Idle.
type Progress struct {
	Stage    string
	Done, Of int
}

// Validate returns an error if the configuration is invalid. Run calls it too.
func (c Config) Validate() error {
	kinds := 0
	for _, set := range []bool{c.Load.Rate > 0, c.Load.Spread > 0, c.Load.SameInstant} {
		if set {
			kinds++
		}
	}
	switch {
	case (c.DatabaseURL == "") != (c.BrokerURL == ""):
		return errors.New("give both URLs, or neither: then the bench starts its own servers")
	case c.Fsync && c.DatabaseURL != "":
		return errors.New("the bench does not change the settings of a server that is not its own")
	case c.DatabaseURL == "" && c.Instances == 0:
		return errors.New("no instances run on the servers that the bench starts: start at least one")
	case c.Instances < 0 || c.Instances > 64:
		return fmt.Errorf("the number of instances is %d, must be 0 to 64", c.Instances)
	case c.Load.Idle > 0 && (kinds > 0 || c.Baseline != "" || c.Ceiling):
		return errors.New("idle excludes rate, spread, same instant, baseline and ceiling")
	case c.Load.Idle > 0 && c.Instances == 0:
		return errors.New("idle measures only instances that the bench starts: start at least one")
	case c.Load.Idle < 0 || c.Load.Ahead < 0:
		return errors.New("durations must not be negative")
	case c.Instances == 0 && (c.Ceiling || c.Baseline != ""):
		return errors.New("the instances that already run would take part in the measurements of ceiling and baseline: leave these out, or let the bench start instances on servers that have none")
	case c.Ceiling && kinds > 0:
		return errors.New("the ceiling is that of a backlog: leave rate, spread and same instant out")
	case kinds > 1:
		return errors.New("a rate, a spread and the same instant exclude each other")
	case c.Load.Jobs < 1:
		return fmt.Errorf("the number of jobs is %d, must be at least 1", c.Load.Jobs)
	case c.Load.PayloadBytes < 0 || c.Load.PayloadBytes > maxPayload:
		return fmt.Errorf("the payload is %d bytes, must be 0 to %d", c.Load.PayloadBytes, maxPayload)
	case c.Load.Beside < 0 || c.Load.Beside > 0 && (!c.Load.backlog() || c.Baseline != "" || c.Ceiling || c.Instances == 0):
		return errors.New("jobs beside are those beside a backlog of the bench's own instances, without comparisons")
	case c.Load.Topics < 1:
		return fmt.Errorf("the number of topics is %d, must be at least 1", c.Load.Topics)
	case c.Load.Rate < 0 || c.Load.Spread < 0:
		return errors.New("rate and spread must not be negative")
	case c.Baseline != "" && c.Baseline != Poller && c.Baseline != River:
		return fmt.Errorf("there is no baseline %q", c.Baseline)
	case c.Baseline == River && c.Load.backlog():
		return errors.New("the baseline River needs jobs that fall due over time: give a rate or a spread")
	case c.Baseline != "" && (c.Poll.Rows < 1 || c.Poll.Every < 0):
		return errors.New("the poller must read at least 1 row")
	case c.Instances == 0 && (c.Floor || c.HoldSnapshot || len(c.InstanceFlags)+len(c.CompareFlags)+len(c.MoreInstances) > 0):
		return errors.New("the instances already run: floor, a held snapshot, flags of instances and several numbers of them need instances that the bench starts")
	case slices.ContainsFunc(c.MoreInstances, func(n int) bool { return n < 1 || n > 64 }):
		return fmt.Errorf("the numbers of instances are %d and %d, must be 1 to 64", c.Instances, c.MoreInstances)
	case c.Floor && (kinds == 0 || c.Load.Idle > 0):
		return errors.New("the floor is that of lateness: give a rate, a spread or the same instant")
	case c.HoldSnapshot && c.Load.Rate == 0 && c.Load.Spread == 0:
		return errors.New("what a held snapshot costs is measured over time: give a rate or a spread")
	case c.Load.UrgentEvery < 0 || c.Load.Beside < 0:
		return errors.New("the jobs beside the load must not be negative")
	case c.Load.hasBeside() && c.Load.Idle > 0:
		return errors.New("jobs beside the load need a load: leave idle out")
	case c.Load.Beside > 0 && c.Load.UrgentEvery > 0:
		return errors.New("beside the load there can be paced or urgent jobs, not both")
	case c.Load.Pending < 0 || c.Load.Processed < 0:
		return errors.New("the numbers of pending and processed rows must not be negative")
	case c.Rounds < 0 || c.Rounds > 100:
		return fmt.Errorf("the number of rounds is %d, must be 1 to 100", c.Rounds)
	}
	return nil
}

// bareLanes is how many connections a ceiling uses: as many of the instances' as publish a backlog,
// which is all but the one that they keep free of it.
func (c Config) bareLanes() int { return max(1, c.Lanes-1) }

// maxPayload is MQTT's limit, less some room for the rest of the packet.
const maxPayload = 268_000_000

// backlog reports whether all jobs are due at the start.
func (l Load) backlog() bool { return l.Rate == 0 && l.Spread == 0 && !l.SameInstant }

// ahead is how long before the first fire_at the load is inserted.
func (l Load) ahead() time.Duration {
	switch {
	case l.backlog():
		return 0
	case l.Ahead > 0:
		return l.Ahead
	case l.SameInstant:
		return 4 * time.Second // all must be inserted before they are due
	}
	return 2 * time.Second
}

// hasBeside reports whether there are jobs beside the load.
func (l Load) hasBeside() bool { return l.Beside > 0 || l.UrgentEvery > 0 }

// stored reports whether rows are in the table beforehand.
func (l Load) stored() bool { return l.Pending+l.Processed > 0 }

// forFloor returns the load with enough time for the floor to read it before it is due. All
// measurements of a run have the same load.
func (l Load) forFloor() Load {
	if l.Ahead == 0 {
		l.Ahead = max(l.ahead(), 4*time.Second+time.Duration(l.Jobs)*50*time.Microsecond)
	}
	return l
}

// duration is the time from the first fire_at to the last one.
func (l Load) duration() time.Duration {
	if l.Rate > 0 {
		return time.Duration(float64(l.Jobs) / l.Rate * float64(time.Second))
	}
	return l.Spread
}
