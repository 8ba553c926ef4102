package main

import (
	"context"
	"fmt"
	"time"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/internal/words"
	"github.com/job-publisher/reactor/pgsource"
)

type jobsPurge struct {
	databaseFlags
	OlderThan time.Duration `env:"-" required:"" help:"How long ago a job must have ended, e.g. 720h; a minute at least."`
	Busy      float64       `env:"-" default:"0.2" help:"The part of the time in which rows are deleted, the rest being pauses: 0.01 to 1."`
	Yes       bool          `env:"-" help:"Do not count, and do not ask."`
}

// Help is shown by `reactor jobs purge --help`.
func (*jobsPurge) Help() string {
	return `Deletes the rows of jobs that have fired, failed, expired or were missed, in small transactions, with
what is noted of them, and the records of failed jobs whose row has gone in another way. Jobs that are
being published are kept. It can be interrupted at any time. reactor run --retain does the same all the
time.

Without the index that --retain creates, the table is read twice as a whole: to count, and to delete; with
--yes it is not counted.`
}

func (c *jobsPurge) Run(ctx context.Context, out cli.Output) error {
	retention := pgsource.Retention{
		DatabaseURL: c.connString(), Names: c.names(), Keep: c.OlderThan, Busy: c.Busy,
		Tell: func(rows int64) {
			if cli.IsTerminal(out.Stderr) {
				fmt.Fprintf(out.Stderr, "deleted %s more\n", words.Thousands(rows))
			}
		},
		Skip: func(id int64, why error) {
			fmt.Fprintf(out.Stderr, "job %d cannot be deleted: %s\n", id, cli.Visible(why.Error()))
		},
	}
	switch {
	case c.OlderThan < time.Minute:
		return cli.Usage(fmt.Errorf("--older-than is %v, must be a minute at least", c.OlderThan))
	case !(c.Busy >= 0.01 && c.Busy <= 1): // nor is NaN
		return cli.Usage(fmt.Errorf("--busy is %v, must be 0.01 to 1", c.Busy))
	}
	if !c.Yes {
		found, err := retention.Count(ctx)
		switch {
		case err != nil:
			return err
		case found == pgsource.Purged{}:
			fmt.Fprintf(out.Stderr, "no job has ended that long ago, so there is nothing to delete\n")
			return nil
		}
		if err := confirm(ctx, out, "delete "+purgedText(found), false); err != nil {
			return err
		}
	}
	done, err := retention.Purge(ctx)
	if err == nil || done != (pgsource.Purged{}) { // it may have failed after it has deleted some
		fmt.Fprintf(out.Stdout, "deleted %s\n", purgedText(done))
	}
	return err
}

func purgedText(p pgsource.Purged) string {
	text := "the rows of " + words.Jobs(p.Rows)
	if p.Records > 0 {
		text += fmt.Sprintf(", and %s records of failed jobs whose row was gone", words.Thousands(p.Records))
	}
	return text
}
