package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/lab/internal/chaos"
	"github.com/job-publisher/reactor/reactor"
)

// chaosCommand is `reactor-lab chaos`: it runs seed after seed of package chaos until it is
// told to stop, and prints those that break a promise.
type chaosCommand struct {
	programFlag
	Seed      *uint64          `help:"The first seed; the time if not given."`
	Runs      int              `help:"How many seeds; 0: until stopped."`
	Delivery  reactor.Delivery `default:"exactly-once" help:"The mode of delivery."`
	Instances int              `default:"3" help:"How many instances."`
	Duration  time.Duration    `default:"20s" help:"How long each seed destroys."`
	Rate      int              `default:"1000" help:"Jobs per second."`
	Pause     time.Duration    `default:"700ms" help:"Mean time between two faults."`
	Faults    []string         `placeholder:"NAME,…" help:"Only these. By default: ${everything}. Apart, since they break what the strictest promise rests on: ${apart}."`
	Settings  string           `enum:"seed,plain,hostile" default:"seed" help:"Settings of the instances' database role: plain, hostile, or hostile for a third of the seeds (seed)."`
	Feed      string           `enum:",notify,wal" default:"" help:"The feed that a run begins with; the seed's choice if not given."`
	Pooler    string           `enum:",transaction,session" default:"" help:"A PgBouncer between the instances and the database, in this mode."`
	Keep      string           `type:"path" placeholder:"DIR" help:"Where the logs of runs are kept; by default those of failed runs, in the temporary folder."`
	Verbose   bool             `short:"v" help:"Say what is done, as it is done."`
}

func faultNames() kong.Vars {
	everything := chaos.Everything()
	apart := slices.DeleteFunc(chaos.FaultNames(), func(name string) bool { return slices.Contains(everything, name) })
	return kong.Vars{"everything": strings.Join(everything, ", "), "apart": strings.Join(apart, ", ")}
}

// Help is shown by `reactor-lab chaos --help`.
func (*chaosCommand) Help() string {
	return "Destroys a deployment of its own, seed after seed, and judges whether every job was delivered as promised."
}

// Run destroys until it is told to stop.
func (c *chaosCommand) Run(ctx context.Context, out cli.Output) error {
	// To the package a zero is its default; here the defaults are those of the flags.
	if c.Instances < 1 || c.Duration <= 0 || c.Rate < 1 || c.Pause <= 0 || c.Runs < 0 {
		return cli.Usage(errors.New("--instances, --duration, --rate and --pause must be more than 0, and --runs not less"))
	}
	program, err := c.find()
	if err != nil {
		return err
	}
	first := uint64(time.Now().Unix())
	if c.Seed != nil {
		first = *c.Seed
	}
	logging := cli.LoggingFlags{LogLevel: cli.LogLevel(slog.LevelWarn), LogFormat: "text"}
	if c.Verbose {
		logging.LogLevel = cli.LogLevel(slog.LevelDebug)
	}
	log := logging.Logger(out.Stderr)
	var failed []uint64
	for i := 0; (c.Runs == 0 || i < c.Runs) && ctx.Err() == nil; i++ {
		ok, err := c.once(ctx, program, first+uint64(i), out.Stdout, log)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			return err
		case !ok:
			failed = append(failed, first+uint64(i))
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("promises were broken with the seeds %v", failed)
	}
	return nil
}

func (c *chaosCommand) once(ctx context.Context, program string, seed uint64, out io.Writer, log *slog.Logger) (ok bool, err error) {
	dir := filepath.Join(c.Keep, fmt.Sprint("seed-", seed))
	if c.Keep == "" {
		dir, err = os.MkdirTemp("", "reactor-chaos-")
	} else {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return false, err
	}
	begun := time.Now()
	o, err := chaos.Run(ctx, chaos.Config{
		Program: program, Seed: seed, Delivery: c.Delivery, Instances: c.Instances, Duration: c.Duration,
		Rate: c.Rate, Pause: c.Pause, Faults: c.Faults, Settings: c.Settings, Feed: c.Feed, Pooler: c.Pooler, Dir: dir, Logger: log,
	})
	ok = err == nil && o.Err() == nil
	if c.Keep == "" && (ok || ctx.Err() != nil) {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if err != nil {
		return false, err
	}
	verdict := "kept"
	if !ok {
		verdict = "BROKEN"
	}
	r := o.Report
	fmt.Fprintf(out, "seed %d: %s, %s: %d faults, %d jobs, lost %d, duplicated %d, early %d, lateness p50 %v p99 %v max %v, recovered in %v, in %v\n",
		seed, c.Delivery, verdict, len(o.Schedule), r.Due-1, r.Lost.Count, r.Duplicated.Count, r.Early.Count,
		r.LatenessAt(50), r.LatenessAt(99), r.MaxLateness.Round(time.Millisecond), o.Recovery.Round(time.Millisecond), time.Since(begun).Round(time.Second))
	for _, note := range o.Notes {
		fmt.Fprintf(out, "  accepted: %s\n", note)
	}
	if !ok {
		fmt.Fprintf(out, "  %s\nlogs: %s\nagain: make chaos CHAOS='--seed %d --runs 1%s'\nsettings:\n  %s\nschedule:\n  %s\n",
			strings.Join(o.Findings, "\n  "), dir, seed, c.flags(), strings.Join(o.Settings, "\n  "), strings.Join(o.Schedule, "\n  "))
	}
	return ok, nil
}

// flags are those that the schedule depends on, where they are not the defaults.
func (c *chaosCommand) flags() string {
	var b strings.Builder
	if len(c.Faults) > 0 {
		fmt.Fprintf(&b, " --faults %s", strings.Join(c.Faults, ","))
	}
	if c.Settings != chaos.SettingsBySeed {
		fmt.Fprintf(&b, " --settings %s", c.Settings)
	}
	if c.Feed != "" {
		fmt.Fprintf(&b, " --feed %s", c.Feed)
	}
	if c.Pooler != "" {
		fmt.Fprintf(&b, " --pooler %s", c.Pooler)
	}
	fmt.Fprintf(&b, " --delivery %s --instances %d --duration %v --rate %d --pause %v", c.Delivery, c.Instances, c.Duration, c.Rate, c.Pause)
	return b.String()
}
