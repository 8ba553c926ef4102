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

// chaosCommand is `reactor-lab chaos`. It runs package chaos with one seed after the other until it
// is stopped, and prints the results.
type chaosCommand struct {
	programFlag
	Seed      *uint64          `help:"The first seed; defaults to the current time."`
	Runs      int              `help:"How many seeds to run; 0 means until it is stopped."`
	Delivery  reactor.Delivery `default:"exactly-once" help:"The delivery mode: exactly-once, at-least-once or at-most-once."`
	Instances int              `default:"3" help:"How many instances."`
	Duration  time.Duration    `default:"20s" help:"How long faults are made with each seed."`
	Rate      int              `default:"1000" help:"Jobs per second."`
	Pause     time.Duration    `default:"700ms" help:"Mean time between two faults."`
	Faults    []string         `placeholder:"NAME,…" help:"Use only these faults. Default: ${default_faults}. Only if named here, because they break an assumption of the strictest promise: ${optional_faults}."`
	Settings  string           `enum:"seed,plain,hostile" default:"seed" help:"Settings of the instances' database role: plain, hostile, or hostile for a third of the seeds (seed)."`
	Feed      string           `enum:",notify,wal" default:"" help:"The feed at the start of a run; by default the seed decides."`
	Pooler    string           `enum:",transaction,session" default:"" help:"Put a PgBouncer in this mode between the instances and the database."`
	Keep      string           `type:"path" placeholder:"DIR" help:"Keep the logs of all runs in this folder. By default only those of failed runs are kept, in the temporary folder."`
	Verbose   bool             `short:"v" help:"Log every fault."`
}

// faultNames are the variables in the help of --faults.
func faultNames() kong.Vars {
	defaults := chaos.DefaultFaults()
	optional := slices.DeleteFunc(chaos.FaultNames(), func(name string) bool { return slices.Contains(defaults, name) })
	return kong.Vars{"default_faults": strings.Join(defaults, ", "), "optional_faults": strings.Join(optional, ", ")}
}

// Help is shown by `reactor-lab chaos --help`.
func (*chaosCommand) Help() string {
	return "Makes faults in a deployment of its own, seed after seed, and checks that every job was delivered as promised."
}

// Run runs seeds until it is stopped.
func (c *chaosCommand) Run(ctx context.Context, out cli.Output) error {
	// In chaos.Config a zero means the default; the flags have defaults themselves, so refuse zeros.
	if c.Instances < 1 || c.Duration <= 0 || c.Rate < chaos.MinRate || c.Pause < chaos.MinPause || c.Runs < 0 {
		return cli.Usage(fmt.Errorf("--instances and --duration must be more than 0, --rate at least %d, --pause at least %v, and --runs at least 0",
			chaos.MinRate, chaos.MinPause))
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

// once runs one seed and prints the result. ok reports whether every promise was kept.
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
	result := "kept"
	if !ok {
		result = "BROKEN"
	}
	r := o.Report
	fmt.Fprintf(out, "seed %d: %s, %s: %d faults, %d jobs, lost %d, duplicated %d, early %d, lateness p50 %v p99 %v max %v, recovered in %v, in %v\n",
		seed, c.Delivery, result, len(o.Schedule), r.Due-1, r.Lost.Count, r.Duplicated.Count, r.Early.Count,
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

// flags returns the flags that repeat the run.
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
