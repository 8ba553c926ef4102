package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/lab/internal/deploy"
	"github.com/job-publisher/reactor/lab/internal/embedded"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// demoCommand is `reactor-lab demo`.
type demoCommand struct {
	programFlag
	Jobs      int              `default:"5000" help:"How many jobs to insert."`
	Over      time.Duration    `default:"8s" help:"Over how long they fall due."`
	Instances int              `default:"2" help:"How many instances share them."`
	Delivery  reactor.Delivery `default:"exactly-once" help:"exactly-once, at-least-once or at-most-once."`
}

// Help is shown by `reactor-lab demo --help`.
func (*demoCommand) Help() string {
	return `Starts a PostgreSQL (an installed one, or else one that it downloads) and a broker (mosquitto if
it is installed, or else a small one in this process) on private ports and in temporary folders.
Then it inserts jobs by SQL, runs instances as separate processes, and compares the messages that a
subscriber receives with the table. Leaves nothing behind; Ctrl-C ends it early.`
}

// Run runs the demo.
func (c *demoCommand) Run(ctx context.Context, out cli.Output) error {
	if c.Jobs < 1 || c.Instances < 1 || c.Instances > 20 || c.Over < 0 {
		return cli.Usage(errors.New("--jobs must be at least 1, --instances 1 to 20, --over not negative"))
	}
	program, err := c.find()
	if err != nil {
		return err
	}
	d := &demo{demoCommand: c, out: out.Stdout, program: program}
	err = d.run(ctx)
	if cleanErr := d.cleanUp(); err == nil {
		err = cleanErr
	}
	if ctx.Err() != nil {
		return errors.New("the demo was interrupted; everything it had started is removed")
	}
	return err
}

// demo is a running demo, and what has to be cleaned up after it.
type demo struct {
	*demoCommand
	out     io.Writer
	program string         // path of reactor
	cleanup []func() error // in the order of starting

	dir       string
	database  string
	broker    string
	instances deploy.Programs
	conn      *pgx.Conn
	inserted  time.Time // by the database's clock
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

func (d *demo) run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "reactor-demo-")
	if err != nil {
		return fmt.Errorf("make a temporary folder: %w", err)
	}
	d.dir = dir
	d.cleanup = append(d.cleanup, func() error { return os.RemoveAll(dir) })

	for _, step := range []func(context.Context) error{
		d.startPostgres, d.startBroker, d.migrate, d.startInstances,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	subscriber, err := check.Subscribe(ctx, check.SubscriberConfig{
		URL: d.broker, Filter: "demo/#", QoS: 1, ClientID: "demo-subscriber", Expect: d.Jobs,
	})
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	d.cleanup = append(d.cleanup, subscriber.Close)

	if err := d.insert(ctx); err != nil {
		return err
	}
	if err := d.watch(ctx, subscriber); err != nil {
		return err
	}
	return d.compare(ctx, subscriber)
}

func (d *demo) startPostgres(ctx context.Context) error {
	where := "downloaded"
	found, err := stack.FindPostgres()
	if err == nil {
		where = found.Dir
	} else {
		d.say("PostgreSQL   none installed; downloading one (this needs the internet, once)")
		if found, err = embedded.FindPostgres(ctx, discardLogger()); err != nil {
			return fmt.Errorf("find a PostgreSQL: %w", err)
		}
	}
	server, err := stack.StartPostgres(ctx, stack.PostgresConfig{BinDir: found.Dir, Durable: true, Logger: discardLogger()})
	if err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	d.cleanup = append(d.cleanup, server.Close)
	d.database = server.URL()
	d.say("PostgreSQL   version %d (%s) on port %d, in a temporary folder", server.Major(), where, server.Port())
	d.conn, err = pgx.Connect(ctx, d.database)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	d.cleanup = append(d.cleanup, func() error { return d.conn.Close(context.Background()) })
	return nil
}

func (d *demo) startBroker(ctx context.Context) error {
	server, err := stack.StartMosquitto(ctx, stack.MosquittoConfig{Logger: discardLogger()})
	if err == nil {
		d.cleanup = append(d.cleanup, server.Close)
		d.broker = server.URL()
		d.say("MQTT broker  mosquitto on port %d", server.Port())
		return nil
	}
	if !errors.Is(err, stack.ErrMosquittoNotFound) {
		return fmt.Errorf("start mosquitto: %w", err)
	}
	port, err := stack.FreePort()
	if err != nil {
		return err
	}
	inProcess, err := embedded.StartBroker(port, discardLogger())
	if err != nil {
		return fmt.Errorf("start a broker: %w", err)
	}
	d.cleanup = append(d.cleanup, inProcess.Close)
	d.broker = inProcess.URL()
	d.say("MQTT broker  mosquitto is not installed; a small broker in this process, on port %d", port)
	return nil
}

func (d *demo) migrate(ctx context.Context) error {
	names, err := pgsource.MigrateUp(ctx, d.database)
	if err != nil {
		return err
	}
	d.say("Schema       applied %v", names)
	return nil
}

// startInstances runs reactor as a user would, and waits until the instances share the shards.
func (d *demo) startInstances(ctx context.Context) error {
	d.cleanup = append(d.cleanup, func() error { return d.instances.Stop() })
	for i := 1; i <= d.Instances; i++ {
		name := fmt.Sprintf("instance-%d", i)
		p, err := deploy.StartProgram(deploy.ProgramConfig{
			Name: name, Path: d.program, Args: []string{"run", "--name", name, "--delivery", d.Delivery.String(), "--grace", "3s"},
			Env: cli.WithoutFlags(os.Environ()), DatabaseURL: d.database, BrokerURL: d.broker, Dir: d.dir,
		})
		if err != nil {
			return err
		}
		d.instances = append(d.instances, p)
	}
	if err := deploy.AwaitShares(ctx, d.conn, d.instances); err != nil {
		return err
	}
	d.say("Instances    %d × reactor run --delivery %s, sharing 64 shards", d.Instances, d.Delivery)
	return nil
}

// insert inserts the jobs as an application would: 80 % are spread over the time, 10 % are
// overdue, and 10 % are due at the same instant.
func (d *demo) insert(ctx context.Context) error {
	const statement = `
		WITH jobs AS (
		INSERT INTO jobs (topic, payload, fire_at)
		SELECT 'demo/lamp/' || n % 100, '{"job": ' || n || '}',
		       CASE WHEN n % 10 = 0 THEN now() - interval '1 minute'
		            WHEN n % 10 = 1 THEN now() + $2::interval / 2
		            ELSE now() + $2::interval * random() END
		  FROM generate_series(1, $1::int) AS n)
		SELECT now()`
	begun := time.Now()
	if err := d.conn.QueryRow(ctx, statement, d.Jobs, d.Over).Scan(&d.inserted); err != nil {
		return fmt.Errorf("insert jobs: %w", err)
	}
	d.say("Jobs         %d inserted by one statement in %v: 80 %% spread over %v, 10 %% at one instant, 10 %% overdue",
		d.Jobs, time.Since(begun).Round(time.Millisecond), d.Over)
	d.say("")
	return nil
}

// demoTimeout is how long the demo waits for messages after the last job is due.
const demoTimeout = 20 * time.Second

// watch shows the progress until every job has been received.
func (d *demo) watch(ctx context.Context, s *check.Subscriber) error {
	show := newProgress(d.out)
	defer show.end()
	deadline := time.Now().Add(d.Over + demoTimeout)
	for {
		received := s.Progress().Distinct
		var waiting int
		if err := d.conn.QueryRow(ctx, "SELECT count(*) FROM jobs WHERE NOT processed").Scan(&waiting); err != nil {
			return fmt.Errorf("look at the jobs: %w", err)
		}
		show.update(fmt.Sprintf("%6d waiting  %6d received", waiting, received), received, d.Jobs)
		if received >= d.Jobs || time.Now().After(deadline) {
			return nil
		}
		if err := d.instances.Failed(); err != nil {
			return err
		}
		if !deploy.Sleep(ctx, show.interval) {
			return ctx.Err()
		}
	}
}

// compare compares the received messages with the table.
func (d *demo) compare(ctx context.Context, s *check.Subscriber) error {
	// Every job has been received, but a lane may still be sending a duplicate. After the
	// instances have stopped, none can follow.
	if err := d.instances.Stop(); err != nil {
		return err
	}
	expected, err := check.ExpectedFromDB(ctx, d.conn, "true")
	if err != nil {
		return err
	}
	for i := range expected {
		expected[i].KnownAt = d.inserted // the lateness of overdue jobs counts from their insertion
	}
	report := check.Compare(expected, s.Received(), check.Config{})
	if err := report.Table(d.out); err != nil {
		return err
	}
	if err := report.Err(); err != nil {
		return err
	}
	d.say("\nEvery job was published once, and none early.")
	return nil
}

// cleanUp stops everything, in the reverse order of the start.
func (d *demo) cleanUp() error {
	var errs []error
	for i := len(d.cleanup) - 1; i >= 0; i-- {
		errs = append(errs, d.cleanup[i]())
	}
	return errors.Join(errs...)
}

func discardLogger() *slog.Logger { return slog.New(slog.DiscardHandler) }
