package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/pgsource"
)

// statusCommand is `reactor status`.
type statusCommand struct {
	databaseFlags
	JSON  bool          `env:"-" name:"json" help:"Print JSON: an object; with --watch one on each line."`
	Watch time.Duration `env:"-" placeholder:"DURATION" help:"Look again after this time, e.g. 2s, until a signal ends it. A second at least: instances say no more often how they are doing."`
}

// Help is shown by `reactor status --help`.
func (*statusCommand) Help() string {
	return `Shows the instances with their shares, what waits, what fires next, and how late the jobs of the last
minute were. It needs the database only, and rights to read.

  reactor status --watch 2s
  reactor status --json

LATE P50, P99 and MAX are from fire_at until the broker had accepted the message. Each instance notes them
beside its heartbeat, so they are up to a second old.`
}

// leastWatch is about the time between two heartbeats.
const leastWatch = time.Second

func (c *statusCommand) Run(ctx context.Context, out cli.Output) error {
	if c.Watch != 0 && c.Watch < leastWatch {
		return cli.Usage(fmt.Errorf("--watch is %v, must be %v at least", c.Watch, leastWatch))
	}
	return pgsource.WithJobs(ctx, c.connString(), false, func(a *pgsource.JobsAdmin) error {
		for first := true; ; first = false {
			s, err := a.Status(ctx)
			if err != nil {
				return stopped(ctx, err)
			}
			if err := c.write(out.Stdout, s, first); err != nil || c.Watch == 0 {
				return err
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(c.Watch):
			}
		}
	}, c.names())
}

// write writes a status; first tells that none was written before.
func (c *statusCommand) write(w io.Writer, s pgsource.Status, first bool) error {
	if c.JSON {
		return writeJSON(w, statusJSONOf(s), c.Watch == 0)
	}
	switch {
	case c.Watch != 0 && cli.IsTerminal(w):
		fmt.Fprint(w, "\x1b[H\x1b[2J") // from the top of an empty screen (ECMA-48, CUP and ED)
	case !first:
		fmt.Fprintln(w)
	}
	return writeStatus(w, s)
}
