package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"os"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/internal/otlp"
	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// databaseFlags say where the jobs are.
type databaseFlags struct {
	Schema               string `group:"Database" placeholder:"NAME" help:"Schema of reactor's own tables, to keep several deployments in one database apart: reactor if not given. The same for all commands of a deployment."`
	JobsTable            string `group:"Database" placeholder:"NAME" help:"Table of the jobs, e.g. app.jobs: jobs in the search path if not given. The same for all commands of a deployment."`
	DatabaseURL          string `required:"" type:"url" group:"Database" placeholder:"URL" help:"Database with the jobs, e.g. postgres://user:password@host:5432/name."`
	DatabasePasswordFile string `type:"path" group:"Database" placeholder:"FILE" help:"File that contains the password of the database user, and nothing else. It is read at each connect, so that a changed password needs no restart."`
}

// connString returns the connection string, with the file of the password.
func (f databaseFlags) connString() string {
	return pgsource.WithPasswordFile(f.DatabaseURL, f.DatabasePasswordFile)
}

// withPassword returns the connection string of the feed, with the file of the password if it has none of its own:
// a direct connection may be another user's.
func (f databaseFlags) withPassword(listenURL string) string {
	if u, err := url.Parse(listenURL); err == nil && u.User != nil {
		if _, given := u.User.Password(); given {
			return listenURL
		}
	}
	if strings.Contains(listenURL, "password=") || strings.Contains(listenURL, "passwordfile=") {
		return listenURL
	}
	return pgsource.WithPasswordFile(listenURL, f.DatabasePasswordFile)
}

// names returns the names of the deployment.
func (f databaseFlags) names() pgsource.Names {
	return pgsource.Names{Schema: f.Schema, JobsTable: f.JobsTable}
}

// instanceFlags say how an instance uses the database.
type instanceFlags struct {
	Feed                pgsource.Feed `default:"auto" group:"Database" help:"How instances learn of new jobs: wal (logical replication: inserts cost producers nothing; needs wal_level=logical and a role that may replicate), notify (the table's triggers), poll (no announcements: the sweep finds them, see --loop-frequency) or auto (what the table provides: triggers, otherwise the WAL if server and role allow it)."`
	ListenURL           string        `type:"url" group:"Database" placeholder:"URL" help:"Direct connection for the feed, if the database URL leads through a pooler."`
	DatabaseConnections int           `default:"${database_connections}" group:"Database" help:"Connections for claims, loads and settlements at most, opened when they are needed; up to three more are opened for other purposes. With --feed wal one of these is for replication. An idle instance holds three in all."`
}

// deliveryFlags say what is promised for each job.
type deliveryFlags struct {
	Delivery reactor.Delivery `default:"exactly-once" group:"Broker" help:"exactly-once (QoS 2: none lost, none repeated), at-least-once (QoS 1: none lost, a crash may repeat some) or at-most-once (QoS 0: none repeated, a crash may lose some)."`
}

// runCommand is `reactor run`.
type runCommand struct {
	databaseFlags
	instanceFlags
	brokerFlags
	deliveryFlags
	MaxFeedWAL       int64         `name:"max-feed-wal" default:"${max_feed_wal}" group:"Database" placeholder:"MIB" help:"Feed wal: how much of its log, in MiB, the server may keep for this instance before the feed is started again (default ${default})."`
	PartitionsAhead  int           `default:"${partitions_ahead}" group:"Database" placeholder:"N" help:"If the table has partitions: for how many intervals after the present one to make them (default ${default}); 0 leaves that to reactor partitions."`
	RetainPartitions time.Duration `default:"0s" group:"Database" help:"How long after its end a partition whose jobs are all published is kept before it is dropped, e.g. 720h; 0s keeps all."`
	Retain           time.Duration `default:"0s" group:"Database" help:"How long the row of a job is kept after the job has ended before it is deleted, e.g. 168h; 0s keeps all."`
	Migrate          bool          `default:"true" negatable:"" group:"Database" help:"Apply pending versions of the schema at the start."`
	Deployment       string        `group:"Database" placeholder:"NAME" help:"A part of the MQTT client ids, the same for all instances; if not given, a random name that is stored in the database. Needed if a copy of the database that PostgreSQL cannot tell from it, such as a base backup, uses the same broker."`
	Name             string        `group:"Database" placeholder:"NAME" help:"The name of this instance in reactor.instances; host and process id if not given."`

	Lanes         int                       `default:"${lanes}" group:"Broker" help:"Connections to the broker."`
	Stage         reactor.Staging           `default:"auto" group:"Broker" help:"Whether messages are sent to the broker before their time, at exactly-once, and released at it: auto (where the broker is found to pass them on at their release), on (also where that cannot be found out) or off."`
	OnSessionLoss reactor.SessionLossPolicy `default:"republish" group:"Broker" help:"What happens at exactly-once to the messages in flight when the broker has lost its session state: republish (none is lost, some may be repeated) or fail (recorded as failed jobs)."`

	MaxLateness   time.Duration `default:"0s" group:"Work" help:"How late a job may be published, e.g. 1h: what an outage has made later than that is recorded as missed and not published; 0s: no job is too late."`
	CatchUpRate   int           `default:"0" group:"Work" placeholder:"N" help:"How many overdue jobs this instance publishes a second at most; what falls due meanwhile is not held up. 0: as many as possible."`
	ConsumerCount int           `default:"0" group:"Work" help:"Fixed shares: how many consumers there are. 0 shares dynamically among all instances alive."`
	ConsumerIndex int           `default:"0" group:"Work" help:"Fixed shares: which consumer this is, counted from 0."`
	JobsPerRead   int           `default:"${jobs_per_read}" group:"Work" help:"The maximum number of rows in one read of the table, and of jobs in one claim (there at most 512)."`
	LoopFrequency time.Duration `default:"${loop_frequency}" group:"Work" help:"The time between two sweeps of the table for jobs that the feed has missed."`
	MaxReads      int           `default:"0" group:"Work" help:"Stop after this number of reads of the table, when the jobs that they found are published. 0 means never."`
	MaxPending    int           `default:"${max_pending}" group:"Work" help:"The maximum number of jobs that wait in memory, about 100 bytes each; the others wait in the table."`
	Grace         time.Duration `default:"${grace}" group:"Work" help:"How long a stop waits for the broker's acknowledgements; 0s: it does not wait."`

	httpFlags
	pageFlags
	Pprof      bool   `group:"Monitoring" help:"Serve profiles of the process as well, at /debug/pprof/ for go tool pprof. Whoever reaches them can slow the instance down."`
	Trace      bool   `group:"Monitoring" help:"Make an OpenTelemetry span of each job whose header traceparent is sampled, and export it by OTLP over HTTP. The variables of OpenTelemetry say where to (OTEL_EXPORTER_OTLP_ENDPOINT), and whether other jobs get spans (OTEL_TRACES_SAMPLER)."`
	CPUProfile string `name:"cpu-profile" group:"Monitoring" type:"path" placeholder:"FILE" help:"Write a CPU profile of the whole run there, for go tool pprof."`
	cli.LoggingFlags
}

// runDefaults are the defaults of the flags whose defaults the libraries define.
func runDefaults() kong.Vars {
	source, core := pgsource.Defaults(), reactor.Defaults()
	return kong.Vars{
		"database_connections": fmt.Sprint(source.MaxConns), "max_feed_wal": fmt.Sprint(source.MaxFeedWAL >> 20), "partitions_ahead": fmt.Sprint(source.PartitionsAhead),
		"lanes": fmt.Sprint(core.Lanes), "jobs_per_read": fmt.Sprint(core.JobsPerRead), "loop_frequency": core.LoopFrequency.String(),
		"max_pending": fmt.Sprint(core.MaxPending), "grace": core.Grace.String(),
	}
}

// Help is shown by `reactor run --help`.
func (*runCommand) Help() string {
	return `Every flag can also be given by an environment variable. A variable that is empty counts as not set.

  reactor run --database-url postgres://app:secret@db/app --mqtt-url mqtt://broker
  REACTOR_DATABASE_URL=… REACTOR_MQTT_URL=… reactor run --consumer-count 5 --consumer-index 0

The first SIGINT or SIGTERM stops the instance cleanly: it claims no more jobs, hands the jobs back
that were claimed and not sent, and waits for the messages in flight. A second signal, half a second
later or more, ends it at once.`
}

// Run publishes until it is told to stop.
func (c *runCommand) Run(ctx context.Context, out cli.Output) error {
	go limitGarbage(ctx)
	log := c.Logger(out.Stderr)
	for _, name := range out.UnknownVariables {
		log.Warn("an environment variable begins like a setting of reactor and is none; it is ignored", "variable", name)
	}
	if most := int64(math.MaxInt64 >> 20); c.MaxFeedWAL > most {
		return cli.Usage(fmt.Errorf("--max-feed-wal is %d, must be at most %d", c.MaxFeedWAL, most))
	}
	tracer, err := c.newTracer(log)
	if err != nil {
		return cli.Usage(err)
	}
	r, source, err := c.build(log, tracer)
	if err != nil {
		return cli.Usage(err)
	}
	at, err := c.listen()
	if err != nil {
		return err
	}
	if at != nil {
		defer at.Close()
	}
	view, end, err := c.newPage(at, r, source, log)
	if err != nil {
		return cli.Usage(err)
	}
	if view != nil {
		defer end()
	}
	if c.Migrate {
		names, err := pgsource.MigrateUp(ctx, c.connString(), c.names())
		if err != nil {
			return stopped(ctx, err)
		}
		if len(names) > 0 {
			log.Info("brought the schema up to date", "applied", names)
		}
	}
	if c.CPUProfile != "" {
		end, err := profileCPU(c.CPUProfile)
		if err != nil {
			return err
		}
		defer end()
	}
	metrics := []prometheus.Collector{poolCollector{source}}
	if tracer != nil {
		defer export(ctx, tracer)()
		metrics = append(metrics, spanCollector{tracer})
	}
	defer tellSystemd(ctx, r, log)()
	if at == nil {
		return r.Run(ctx)
	}
	return serveWhile(ctx, at, r, view, log, c.Pprof, metrics...)
}

// profileCPU writes a CPU profile until end is called.
func profileCPU(name string) (end func(), err error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, fmt.Errorf("cannot write the CPU profile: %w: choose another --cpu-profile", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close() // losing the profile must not fail the command
	}, nil
}

// build makes the instance and its source from the flags; its errors are about flags.
func (c *runCommand) build(log *slog.Logger, tracer *otlp.Tracer) (*reactor.Reactor, *pgsource.Source, error) {
	source, err := pgsource.New(pgsource.Config{
		DatabaseURL: c.connString(), Schema: c.Schema, JobsTable: c.JobsTable, Feed: c.Feed, ListenURL: c.withPassword(c.ListenURL), MaxFeedWAL: cli.Given(c.MaxFeedWAL) << 20, Deployment: c.Deployment, Name: c.Name, Version: versionName(), MaxConns: cli.Given(c.DatabaseConnections),
		PartitionsAhead: cli.Given(c.PartitionsAhead), RetainPartitions: c.RetainPartitions, Retain: c.Retain, Logger: log,
	})
	if err != nil {
		return nil, nil, err
	}
	sink, err := mqttsink.New(c.brokerFlags.config(log))
	if err != nil {
		return nil, nil, err
	}
	grace := cli.Given(c.Grace) // turns 0 into NoGrace
	if c.Grace < 0 {
		grace = min(c.Grace, 2*reactor.NoGrace) // not NoGrace, so that reactor.New refuses it
	}
	core := reactor.Config{
		Delivery: c.Delivery, Stage: c.Stage, OnSessionLoss: c.OnSessionLoss, MaxLateness: c.MaxLateness, CatchUpRate: c.CatchUpRate,
		JobsPerRead: cli.Given(c.JobsPerRead), LoopFrequency: cli.Given(c.LoopFrequency),
		ConsumerCount: c.ConsumerCount, ConsumerIndex: c.ConsumerIndex, MaxReads: c.MaxReads,
		Lanes: cli.Given(c.Lanes), MaxPending: cli.Given(c.MaxPending), Grace: grace, Logger: log,
	}
	if tracer != nil { // a nil *Tracer in the interface would not be nil
		core.Tracer = tracer
	}
	r, err := reactor.New(source, sink, core)
	return r, source, err
}

// stopped returns nil instead of an error that is only the result of a stop signal.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
