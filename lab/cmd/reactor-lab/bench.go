package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/lab/internal/bench"
	"github.com/job-publisher/reactor/reactor"
)

// benchCommand is `reactor-lab bench`.
type benchCommand struct {
	programFlag
	Stack       bool   `group:"Where" help:"Start a PostgreSQL and a Mosquitto on private ports and in temporary folders; the URLs are then ignored."`
	Fsync       bool   `group:"Where" help:"With --stack: commits wait for the disk. Without it the speed of the disk has no influence."`
	DatabaseURL string `type:"url" group:"Where" placeholder:"URL" help:"Or use this database, which has the schema, with the default names. Jobs with topics reactor-bench/… are inserted and deleted."`
	MQTTURL     string `type:"url" group:"Where" name:"mqtt-url" placeholder:"URL" help:"And this broker."`

	Jobs         int            `group:"Load" default:"50000" help:"How many jobs."`
	Rate         *float64       `group:"Load" placeholder:"PER_SECOND" help:"Jobs are due evenly at this rate, instead of all at the start."`
	Spread       *time.Duration `group:"Load" placeholder:"DURATION" help:"Or at random times within this duration."`
	SameInstant  bool           `group:"Load" help:"Or all at the same instant in the future."`
	Idle         *time.Duration `group:"Load" placeholder:"DURATION" help:"Or there are no jobs: measure for this long what idle instances use."`
	Ahead        *time.Duration `group:"Load" placeholder:"DURATION" help:"How long before the first fire_at the jobs are inserted; defaults to 2s, or 4s for the same instant."`
	PayloadBytes int            `group:"Load" default:"40" help:"Size of a payload."`
	Beside       *float64       `group:"Load" placeholder:"PER_SECOND" help:"While the load is published, so many small jobs a second fall due at their time: measure how late those are."`
	Topics       int            `group:"Load" default:"100" help:"How many different topics."`
	UrgentEvery  *time.Duration `group:"Load" placeholder:"DURATION" help:"Or insert one small job so often that is due at once."`
	HoldSnapshot bool           `group:"Load" help:"Measure reactor again, and the baseline, while another connection holds a snapshot from before the first job, so that vacuum removes nothing. Reports lateness in slices of the time. Needs --rate or --spread."`
	Pending      int            `group:"Load" default:"0" placeholder:"ROWS" help:"Measure reactor again with so many rows in the table that are due next month."`
	Processed    int            `group:"Load" default:"0" placeholder:"ROWS" help:"And with so many that have been processed."`

	Instances    []int            `group:"Work" default:"1" help:"How many instances to start; 0 measures those that already run. Several numbers, such as 1,5,20, are measured one after the other."`
	Delivery     reactor.Delivery `group:"Work" default:"exactly-once" help:"exactly-once, at-least-once or at-most-once."`
	Lanes        int              `group:"Work" default:"3" help:"Connections of each instance to the broker."`
	InstanceFlag []string         `group:"Work" sep:"none" placeholder:"FLAG" help:"Give this flag to all instances, such as --instance-flag=--stage=off. Can be repeated."`

	Baseline  string        `group:"Compare" enum:",poll,river" default:"" help:"poll: also measure a poller, the design that reactor replaces. river: River, a queue in PostgreSQL; needs --rate or --spread, and --ahead for copying the jobs into its own tables."`
	PollRows  int           `group:"Compare" default:"100" help:"How many rows the poller reads at a time."`
	PollEvery time.Duration `group:"Compare" default:"50ms" help:"How often the poller reads, and River looks for jobs."`
	Ceiling   bool          `group:"Compare" help:"Also measure the bare claim, the bare broker and both together: the highest rate at which a backlog can be drained."`

	Floor       bool     `group:"Compare" help:"Measure the floor, too: the least lateness that is possible, with a timer and one packet for each job. At exactly-once a committed row comes between PUBREC and PUBREL, and the floor of QoS 1 is measured as well. Needs --rate, --spread or --same-instant."`
	CompareFlag []string `group:"Compare" sep:"none" placeholder:"FLAG" help:"Measure reactor again with this flag of its instances. If it is repeated, all of them are given together."`
	Rounds      int      `group:"Compare" default:"1" help:"Measure everything so often, in turn, and report medians with their ranges."`

	JSON string `group:"Output" name:"json" type:"path" placeholder:"FILE" help:"Write all results to this file; - is the standard output."`
	drawFlags
}

// Help is shown by `reactor-lab bench --help`.
func (*benchCommand) Help() string {
	return `Inserts jobs by SQL, lets instances publish them, and records the time of each message with its
own subscriber.

    reactor-lab bench --stack --jobs 100000 --ceiling --baseline poll
    reactor-lab bench --stack --jobs 10000 --rate 1000 --floor --rounds 3 --report lateness.html
    reactor-lab bench --stack --jobs 10000 --rate 1000 --pending 10000000 --processed 10000000

The subscriber, the servers and the instances share this machine: compare the results of one run with
each other, not those of different runs.`
}

// Run measures and writes the results.
func (c *benchCommand) Run(ctx context.Context, out cli.Output) error {
	if c.Stack { // the environment may have set the URLs
		c.DatabaseURL, c.MQTTURL = "", ""
	} else if c.DatabaseURL == "" || c.MQTTURL == "" {
		return cli.Usage(errors.New("give --stack, or --database-url and --mqtt-url"))
	}
	if err := c.check(); err != nil {
		return cli.Usage(err)
	}
	program, err := c.find()
	if err != nil {
		return err
	}
	drainer, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	text := out.Stdout
	if c.JSON == "-" || c.Plot == "-" || c.Report == "-" {
		text = out.Stderr
	}
	show := newProgress(text)
	next := time.Time{}
	cfg := bench.Config{
		DatabaseURL: c.DatabaseURL, BrokerURL: c.MQTTURL, Program: program, Drainer: drainer,
		Fsync: c.Fsync, Instances: c.Instances[0], MoreInstances: c.Instances[1:], Delivery: c.Delivery, Lanes: c.Lanes,
		InstanceFlags: c.InstanceFlag, CompareFlags: c.CompareFlag, Rounds: c.Rounds, Floor: c.Floor, HoldSnapshot: c.HoldSnapshot,
		Load: bench.Load{
			Jobs: c.Jobs, Rate: orZero(c.Rate), Spread: orZero(c.Spread), SameInstant: c.SameInstant,
			Idle: orZero(c.Idle), Ahead: orZero(c.Ahead), PayloadBytes: c.PayloadBytes, Topics: c.Topics,
			Pending: c.Pending, Processed: c.Processed, Beside: orZero(c.Beside), UrgentEvery: orZero(c.UrgentEvery),
		},
		Baseline: map[string]bench.Kind{"poll": bench.Poller, "river": bench.River}[c.Baseline], Poll: bench.Poll{Rows: c.PollRows, Every: c.PollEvery}, Ceiling: c.Ceiling,
		Progress: func(p bench.Progress) {
			if now := time.Now(); now.After(next) || p.Done == p.Of {
				next = now.Add(show.interval)
				show.update(fmt.Sprintf("%-8s %7d of %d", p.Stage, p.Done, p.Of), p.Done, p.Of)
			}
		},
	}
	if err := cfg.Validate(); err != nil {
		return cli.Usage(err)
	}
	if c.Plot != "" && c.Idle != nil {
		return cli.Usage(errors.New("with --idle there is nothing to draw: leave --plot out"))
	}
	// Open the files before the measurement: if that fails, no time is lost.
	jsonFile, err := create(c.JSON, out.Stdout)
	if err != nil {
		return err
	}
	defer jsonFile.Close()
	draw, err := c.open(out.Stdout)
	if err != nil {
		return err
	}
	defer draw.close()
	result, err := bench.Run(ctx, cfg)
	show.end()
	if ctx.Err() != nil {
		return errors.New("interrupted: there are no results, and the jobs are deleted")
	}
	if err != nil {
		return err
	}
	if err := result.Table(text); err != nil {
		return err
	}
	if c.JSON != "" {
		e := json.NewEncoder(jsonFile)
		e.SetIndent("", "  ")
		if err := errors.Join(e.Encode(result), jsonFile.Close()); err != nil {
			return err
		}
	}
	if err := draw.write(result); err != nil {
		return err
	}
	return result.Err()
}

// check refuses zero values of flags. In bench.Config a zero value means that the flag was not
// given.
func (c *benchCommand) check() error {
	if c.Rate != nil && !(*c.Rate > 0 && *c.Rate <= math.MaxFloat64) { // NaN is neither
		return fmt.Errorf("--rate is %v, must be more than 0: leave it out for a backlog", *c.Rate)
	}
	for name, d := range map[string]*time.Duration{"spread": c.Spread, "idle": c.Idle, "ahead": c.Ahead, "urgent-every": c.UrgentEvery} {
		if d != nil && *d <= 0 {
			return fmt.Errorf("--%s is %v, must be more than 0s: leave it out for none, or for its default", name, *d)
		}
	}
	if len(c.Instances) == 0 {
		return errors.New("--instances is empty: give a number, or several")
	}
	if c.Rounds < 1 || c.Rounds > 100 {
		return fmt.Errorf("--rounds is %d, must be 1 to 100", c.Rounds)
	}
	if c.Lanes < 1 || c.Lanes > 64 {
		return fmt.Errorf("--lanes is %d, must be 1 to 64", c.Lanes)
	}
	return nil
}

// orZero returns the value of a flag, or zero if the flag was not given.
func orZero[T any](flag *T) (value T) {
	if flag != nil {
		value = *flag
	}
	return value
}

// create creates a file. For "-" it returns stdout, for "" a writer that discards.
func create(name string, stdout io.Writer) (io.WriteCloser, error) {
	switch name {
	case "":
		return nopCloser{io.Discard}, nil
	case "-":
		return nopCloser{stdout}, nil
	}
	return os.Create(name)
}

// nopCloser is a writer whose Close does nothing.
type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// drainCommand is `reactor-lab bench-drain`, which the bench starts to publish without reactor.
type drainCommand struct {
	Kind        string           `arg:"" enum:"broker,ceiling,floor,poller,river" help:"broker, ceiling, floor, poller or river."`
	DatabaseURL string           `required:"" type:"url"`
	MQTTURL     string           `required:"" type:"url" name:"mqtt-url"`
	Delivery    reactor.Delivery `default:"exactly-once"`
	Lanes       int              `default:"2"`
	PollRows    int              `default:"100"`
	PollEvery   time.Duration    `default:"50ms"`
	After       int64            `default:"0" help:"Only jobs with larger ids."`
}

// Run publishes the jobs.
func (c *drainCommand) Run(ctx context.Context) error {
	err := bench.Bare{
		DatabaseURL: c.DatabaseURL, BrokerURL: c.MQTTURL, Kind: bench.Kind(c.Kind), Delivery: c.Delivery, Lanes: c.Lanes,
		Poll: bench.Poll{Rows: c.PollRows, Every: c.PollEvery}, After: c.After,
	}.Drain(ctx)
	if ctx.Err() != nil {
		return nil // stopped by a signal
	}
	return err
}
