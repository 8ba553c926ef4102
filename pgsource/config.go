package pgsource

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/reactor"
)

// Config says how to use the database. The zero value of every field but
// DatabaseURL is its default.
type Config struct {
	// DatabaseURL is a connection string as libpq knows it: a URL or key=value
	// pairs; PGHOST and its like fill in what is missing. White space around it, like the
	// end of the line in a file, is no part of it.
	DatabaseURL string
	// Feed is how the instance hears of new jobs. Defaults to FeedAuto.
	Feed Feed
	// ListenURL is a direct connection for the feed, needed where DatabaseURL leads
	// through a pooler in transaction mode, which carries neither notifications nor, most of
	// them, replication. Defaults to DatabaseURL.
	ListenURL string
	// MaxFeedWAL is how much of its log, in bytes, the server may have to keep for the WAL
	// feed of this instance. Beyond it the feed is given up, and begun anew behind all that:
	// the sweep finds what it would have told. A busy server keeps what it writes in half a
	// minute for any slot. Defaults to 4 GiB.
	MaxFeedWAL int64
	// Deployment is what the MQTT client ids of the lanes are made of, between "reactor-" and
	// the number of the lane: letters, digits, "-" and "_", 40 at most. It has to be the same for
	// all instances, and another one for each database that shares the broker. Defaults to a
	// name that the database was given at random; a copy of the database takes another one by
	// itself, unless nothing tells it from the original, as with a base backup.
	Deployment string
	// Name is shown in reactor.instances. Defaults to "host:pid".
	Name string
	// MaxConns is how many connections are opened for claims, loads and settlements. Three
	// more are used, for the membership, for LISTEN, and for what may take long. 2 to 128:
	// each lane and the settler use one at a time, and more make nothing faster. Defaults
	// to 6.
	MaxConns int
	// StatementTimeout ends any statement of ours that takes longer; claims and
	// settlements are given up after 5 s at the latest. Defaults to 10 s. This and all
	// other durations are 1 ms to 24 h.
	StatementTimeout time.Duration
	// Heartbeat is the time between two signs of life. Defaults to 1 s.
	Heartbeat time.Duration
	// TTL is how old the last sign of life of an instance may be before the
	// others take its shards and lanes. Shorter takes over faster, longer forgives
	// longer stalls. At least 3 heartbeats. Defaults to 3 s.
	TTL time.Duration
	// FeedCheck is the time between two probes of the feed; three unanswered ones mean
	// that it is dead. Defaults to 5 s.
	FeedCheck time.Duration
	// RetryAttempts is how often a job that the broker refuses is tried before it
	// is recorded as failed, 1 to 1000. Defaults to 5.
	RetryAttempts int
	// RetryBackoff is the pause before the second attempt; it doubles with each
	// further one up to 64 times as much, give or take a quarter. Defaults to 1 s.
	RetryBackoff time.Duration
	// Logger defaults to discarding.
	Logger *slog.Logger
}

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
	setDefault(&c.Heartbeat, time.Second)
	setDefault(&c.TTL, 3*time.Second)
	setDefault(&c.FeedCheck, 5*time.Second)
	setDefault(&c.MaxFeedWAL, 4<<30)
	setDefault(&c.RetryAttempts, 5)
	setDefault(&c.RetryBackoff, time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) validate() error {
	for _, u := range []struct{ field, url string }{{"DatabaseURL", c.DatabaseURL}, {"ListenURL", c.ListenURL}} {
		cfg, err := parseURL(u.url)
		if err != nil {
			return &reactor.ConfigError{Field: u.field, Problem: err.Error()}
		}
		// These two send parameters without knowing their types, and get text back.
		if mode := cfg.DefaultQueryExecMode; mode == pgx.QueryExecModeExec || mode == pgx.QueryExecModeSimpleProtocol {
			return &reactor.ConfigError{Field: u.field, Problem: fmt.Sprintf("has default_query_exec_mode=%v, which cannot carry our statements: leave it away, or, behind a pooler that loses prepared statements, use cache_describe", mode)}
		}
	}
	if c.Feed > FeedPoll {
		return &reactor.ConfigError{Field: "Feed", Value: c.Feed, Problem: "which does not exist"}
	}
	if c.MaxFeedWAL < 16<<20 {
		return &reactor.ConfigError{Field: "MaxFeedWAL", Value: c.MaxFeedWAL, Problem: "must be 16 MiB at least, the size of a file of the log"}
	}
	if len(c.Deployment) > 40 || strings.ContainsFunc(c.Deployment, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || r == '-' || r == '_')
	}) {
		return &reactor.ConfigError{Field: "Deployment", Value: c.Deployment, Problem: "must be letters, digits, - and _, 40 at most"}
	}
	if c.MaxConns < 2 || c.MaxConns > maxConns {
		return &reactor.ConfigError{Field: "MaxConns", Value: c.MaxConns, Problem: fmt.Sprintf("must be 2 to %d", maxConns)}
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{
		{"StatementTimeout", c.StatementTimeout},
		{"Heartbeat", c.Heartbeat},
		{"TTL", c.TTL},
		{"FeedCheck", c.FeedCheck},
		{"RetryBackoff", c.RetryBackoff},
	} {
		if d.value < time.Millisecond || d.value > 24*time.Hour {
			return &reactor.ConfigError{Field: d.field, Value: d.value, Problem: "must be 1ms to 24h"}
		}
	}
	if c.TTL < 3*c.Heartbeat {
		return &reactor.ConfigError{Field: "TTL", Value: c.TTL, Problem: fmt.Sprintf("must be at least 3 heartbeats of %v", c.Heartbeat)}
	}
	if c.RetryAttempts < 1 || c.RetryAttempts > 1000 {
		return &reactor.ConfigError{Field: "RetryAttempts", Value: c.RetryAttempts, Problem: "must be 1 to 1000"}
	}
	return nil
}

// maxConns is twice as many as the largest number of lanes can use.
const maxConns = 128

// setDefault replaces a zero value.
func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
