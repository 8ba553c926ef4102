package pgsource

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Config says how to use the database. The zero value of every field but DatabaseURL means its
// default. New refuses a value out of range with a *driver.ConfigError that names the field.
type Config struct {
	// DatabaseURL is a connection string as libpq defines it: a URL, or key=value pairs. The
	// environment (PGHOST and so on) fills in what is missing. White space around it, such as the
	// end of a line from a file, is ignored. It has no default.
	DatabaseURL string
	// Schema is the schema of reactor's own tables, and JobsTable the table of jobs: see Names. They
	// default to reactor and jobs. All instances of a deployment have the same, and no two deployments
	// of a database do.
	Schema, JobsTable string
	// Feed selects how the instance learns of new jobs. Defaults to FeedAuto.
	Feed Feed
	// ListenURL is the connection string of a direct connection for the feed. It is needed if
	// DatabaseURL leads through a pooler in transaction mode, which carries no notifications, and
	// in most cases no replication. Defaults to DatabaseURL.
	ListenURL string
	// MaxFeedWAL bounds how much of its log, in bytes, the server may keep for the WAL feed of this
	// instance. Beyond it the feed is given up and started again behind that part of the log; the
	// sweep finds the jobs that were not announced. For any slot a busy server keeps what it writes
	// in half a minute. At least 16 MiB. Defaults to 4 GiB.
	MaxFeedWAL int64
	// Deployment is the part of the lanes' MQTT client ids between "reactor-" and the number of the
	// lane: letters, digits, "-" and "_", at most 40. It must be the same for all instances, and
	// different for each database that uses the same broker. Defaults to a random name that is
	// stored in the database. A copy of the database takes another name by itself, except if
	// nothing tells it from the original, such as after a base backup.
	Deployment string
	// Name is the name of this instance in reactor.instances. Defaults to "host:pid".
	Name string
	// Version is the version of the program, which Status shows. Defaults to none.
	Version string
	// MaxConns is the largest number of connections for claims, loads and settlements. They are
	// opened when they are needed, and closed again, but for one. Up to three more are opened: one
	// for the membership, one for the feed, and, while such a statement runs, one for statements
	// that may take long. So an idle instance holds three. 2 to 128. Each lane and the settler use
	// one at a time, and more make nothing faster. Defaults to 6.
	MaxConns int
	// StatementTimeout ends any statement that takes longer; claims and settlements end after 5 s
	// at the latest. Like all durations here but TTL, 1 ms to 24 h. Defaults to 10 s.
	StatementTimeout time.Duration
	// TTL is how old the last heartbeat of an instance may be before the others take its shards
	// and lanes. A shorter TTL takes over faster; a longer one tolerates longer stalls. An
	// instance beats about every third of it. 100 ms to 24 h. Defaults to 3 s.
	TTL time.Duration
	// FeedCheck is the time between two probes of the feed. Three probes without an answer mean
	// that the feed is broken. Defaults to 5 s.
	FeedCheck time.Duration
	// RetryAttempts is how many times a job that the broker refuses is tried before it is recorded
	// as failed. 1 to 1000. Defaults to 5.
	RetryAttempts int
	// RetryBackoff is the pause before the second attempt. It doubles with each further attempt, up
	// to 64 times the first, and varies at random by a quarter in both directions. Defaults to 1 s.
	RetryBackoff time.Duration
	// PartitionsAhead is for a table with partitions (ConvertToPartitions): for how many intervals
	// after the present one this instance makes partitions, if its role owns the table. Of several
	// instances any may do it. Up to 400; NoPartitions leaves it to `reactor partitions`. Defaults
	// to 7.
	PartitionsAhead int
	// RetainPartitions is how long after its end a partition is kept before this instance drops it
	// with all its jobs. A partition with a job that is not published yet is kept. An hour at least.
	// Defaults to 0, which keeps all.
	RetainPartitions time.Duration
	// Retain is how long the row of a job is kept after the job has ended, in whatever way, before an
	// instance deletes it with what is noted of it. Of several instances one does it at a time. Where
	// the role owns the table it creates an index for that, which costs every claim a little; otherwise
	// the log has the statement. A minute at least. Defaults to 0, which keeps all.
	Retain time.Duration
	// Logger receives the log. Defaults to discarding it.
	Logger *slog.Logger
}

// NoPartitions is the Config.PartitionsAhead of an instance that does not maintain partitions.
const NoPartitions = -1

// Defaults is what the zero Config stands for.
func Defaults() Config { return Config{}.withDefaults() }

func (c Config) withDefaults() Config {
	c.DatabaseURL, c.ListenURL = strings.TrimSpace(c.DatabaseURL), strings.TrimSpace(c.ListenURL)
	if c.ListenURL == "" {
		c.ListenURL = c.DatabaseURL
	}
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "unknown"
		}
		c.Name = fmt.Sprintf("%s:%d", host, os.Getpid())
	}
	setDefault(&c.MaxConns, 6)
	setDefault(&c.StatementTimeout, 10*time.Second)
	setDefault(&c.TTL, 3*time.Second)
	setDefault(&c.FeedCheck, 5*time.Second)
	setDefault(&c.MaxFeedWAL, 4<<30)
	setDefault(&c.RetryAttempts, 5)
	setDefault(&c.PartitionsAhead, 7)
	setDefault(&c.RetryBackoff, time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// deployment returns the names of the deployment.
func (c Config) deployment() Names { return Names{Schema: c.Schema, JobsTable: c.JobsTable} }

func (c Config) validate() error {
	for _, u := range []struct{ field, url string }{{"DatabaseURL", c.DatabaseURL}, {"ListenURL", c.ListenURL}} {
		cfg, err := parseURL(u.url)
		if err != nil {
			return &driver.ConfigError{Field: u.field, Problem: err.Error()}
		}
		// These two modes send parameters without knowing their types, and receive text.
		if mode := cfg.DefaultQueryExecMode; mode == pgx.QueryExecModeExec || mode == pgx.QueryExecModeSimpleProtocol {
			return &driver.ConfigError{Field: u.field, Problem: fmt.Sprintf("has default_query_exec_mode=%v, which cannot carry our statements: leave it out, or, behind a pooler that loses prepared statements, use cache_describe", mode)}
		}
	}
	if _, err := c.deployment().check(); err != nil {
		return err
	}
	if c.Feed > FeedPoll {
		return &driver.ConfigError{Field: "Feed", Value: c.Feed, Problem: "which does not exist"}
	}
	if c.MaxFeedWAL < 16<<20 {
		return &driver.ConfigError{Field: "MaxFeedWAL", Value: c.MaxFeedWAL, Problem: "must be 16 MiB at least, the size of a log file"}
	}
	if len(c.Deployment) > 40 || strings.ContainsFunc(c.Deployment, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || r == '-' || r == '_')
	}) {
		return &driver.ConfigError{Field: "Deployment", Value: c.Deployment, Problem: "must be letters, digits, - and _, 40 at most"}
	}
	if c.MaxConns < 2 || c.MaxConns > maxConns {
		return &driver.ConfigError{Field: "MaxConns", Value: c.MaxConns, Problem: fmt.Sprintf("must be 2 to %d", maxConns)}
	}
	for _, d := range []struct {
		field      string
		value, min time.Duration
	}{
		{"StatementTimeout", c.StatementTimeout, time.Millisecond},
		{"TTL", c.TTL, 100 * time.Millisecond},
		{"FeedCheck", c.FeedCheck, time.Millisecond},
		{"RetryBackoff", c.RetryBackoff, time.Millisecond},
	} {
		if d.value < d.min || d.value > 24*time.Hour {
			return &driver.ConfigError{Field: d.field, Value: d.value, Problem: fmt.Sprintf("must be %v to 24h", d.min)}
		}
	}
	if c.PartitionsAhead < NoPartitions || c.PartitionsAhead > mostAhead {
		return &driver.ConfigError{Field: "PartitionsAhead", Value: c.PartitionsAhead, Problem: fmt.Sprintf("must be 0 to %d", mostAhead)}
	}
	if c.RetainPartitions != 0 && c.RetainPartitions < time.Hour {
		return &driver.ConfigError{Field: "RetainPartitions", Value: c.RetainPartitions, Problem: "must be an hour at least, or 0 to keep all"}
	}
	if c.Retain != 0 && c.Retain < shortestKeep {
		return &driver.ConfigError{Field: "Retain", Value: c.Retain, Problem: fmt.Sprintf("must be %v at least, or 0 to keep all", shortestKeep)}
	}
	if c.RetryAttempts < 1 || c.RetryAttempts > 1000 {
		return &driver.ConfigError{Field: "RetryAttempts", Value: c.RetryAttempts, Problem: "must be 1 to 1000"}
	}
	return nil
}

// maxConns is the largest Config.MaxConns: twice as many as the largest number of lanes can use.
const maxConns = 128

// setDefault replaces a zero value by the default.
func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
