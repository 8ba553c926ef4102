package bench

import (
	"errors"
	"fmt"
	"time"

	"github.com/job-publisher/reactor/reactor"
)

// Config says what to measure.
type Config struct {
	// DatabaseURL and BrokerURL are the servers to use, migrated. Both empty: Run
	// starts a PostgreSQL and a Mosquitto of its own.
	DatabaseURL, BrokerURL string
	// Fsync lets the PostgreSQL of the bench's own wait for the disk at each commit, as one
	// with data of value does. Without, what is measured is the programs.
	Fsync bool
	// Program is the path of reactor, for the instances.
	Program string
	// Drainer is the path of a program whose command bench-drain is Bare.Drain, for what
	// they are compared with.
	Drainer string
	// Instances to start; 0 attaches to those that are running.
	Instances int
	Delivery  reactor.Delivery
	Lanes     int

	Load Load

	// Baseline measures the poller too, of a backlog on a part of the jobs.
	Baseline bool
	Poll     Poll
	// Ceiling measures the bare claim and the bare broker too.
	Ceiling bool

	// Progress, if set, is called a few times a second by one goroutine.
	Progress func(Progress)
}

// Load says what jobs fall due when. With neither Rate nor Spread nor SameInstant they
// are due when the measurement starts: a backlog.
type Load struct {
	Jobs        int           `json:"jobs"`
	Rate        float64       `json:"rate"`      // jobs per second, evenly paced
	Spread      time.Duration `json:"spread_ns"` // at random within it
	SameInstant bool          `json:"same_instant"`
	// Idle measures, instead of any jobs, instances without any.
	Idle time.Duration `json:"idle_ns"`
	// Ahead is how long before the first fire_at a load that is no backlog is inserted.
	// Defaults to 2 s, and to 4 s for the same instant.
	Ahead        time.Duration `json:"ahead_ns"`
	PayloadBytes int           `json:"payload_bytes"`
	Topics       int           `json:"topics"`
}

// Poll is the poller's design: read Rows rows every Every, publish them, mark them.
type Poll struct {
	Rows  int
	Every time.Duration
}

// Progress is how far a measurement is: jobs received, or seconds of idleness passed.
type Progress struct {
	Stage    string
	Done, Of int
}

// Validate tells what is wrong with it; Run does so too.
func (c Config) Validate() error {
	shapes := 0
	for _, set := range []bool{c.Load.Rate > 0, c.Load.Spread > 0, c.Load.SameInstant} {
		if set {
			shapes++
		}
	}
	switch {
	case (c.DatabaseURL == "") != (c.BrokerURL == ""):
		return errors.New("give both URLs, or neither for servers of the bench's own")
	case c.Fsync && c.DatabaseURL != "":
		return errors.New("the bench does not change the settings of a server that is not its own")
	case c.DatabaseURL == "" && c.Instances == 0:
		return errors.New("servers of the bench's own have no instances to attach to: start at least one")
	case c.Instances < 0 || c.Instances > 64:
		return fmt.Errorf("the number of instances is %d, must be 0 to 64", c.Instances)
	case c.Load.Idle > 0 && (shapes > 0 || c.Baseline || c.Ceiling):
		return errors.New("to be idle excludes a rate, a spread, the same instant, the baseline and the ceiling")
	case c.Load.Idle > 0 && c.Instances == 0:
		return errors.New("the instances to measure must be the bench's own: start at least one")
	case c.Load.Idle < 0 || c.Load.Ahead < 0:
		return errors.New("durations must not be negative")
	case c.Instances == 0 && (c.Ceiling || c.Baseline):
		return errors.New("the instances that run already would take part in what they are compared with: leave ceiling and baseline away, or have the bench start instances on servers without any")
	case c.Ceiling && shapes > 0:
		return errors.New("the ceiling is that of a backlog: leave rate, spread and same instant away")
	case shapes > 1:
		return errors.New("a rate, a spread and the same instant exclude each other")
	case c.Load.Jobs < 1:
		return fmt.Errorf("the number of jobs is %d, must be at least 1", c.Load.Jobs)
	case c.Load.PayloadBytes < 0 || c.Load.PayloadBytes > 1<<20:
		return fmt.Errorf("a payload of %d bytes is not 0 to 1,048,576", c.Load.PayloadBytes)
	case c.Load.Topics < 1:
		return fmt.Errorf("the number of topics is %d, must be at least 1", c.Load.Topics)
	case c.Load.Rate < 0 || c.Load.Spread < 0:
		return errors.New("rate and spread must not be negative")
	case c.Baseline && (c.Poll.Rows < 1 || c.Poll.Every < 0):
		return errors.New("the poller must read at least 1 row")
	}
	return nil
}

// backlog reports whether everything is due at the start.
func (l Load) backlog() bool { return l.Rate == 0 && l.Spread == 0 && !l.SameInstant }

// ahead is how long before the first fire_at the load is inserted.
func (l Load) ahead() time.Duration {
	switch {
	case l.backlog():
		return 0
	case l.Ahead > 0:
		return l.Ahead
	case l.SameInstant:
		return 4 * time.Second // not before all are inserted
	}
	return 2 * time.Second
}

// duration is from the first job's fire_at to the last one's.
func (l Load) duration() time.Duration {
	if l.Rate > 0 {
		return time.Duration(float64(l.Jobs) / l.Rate * float64(time.Second))
	}
	return l.Spread
}
