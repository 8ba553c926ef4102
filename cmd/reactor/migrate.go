package main

import (
	"context"
	"fmt"
	"time"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/pgsource"
)

// migrateCommand is `reactor migrate`.
type migrateCommand struct {
	Up     migrateUp     `cmd:"" default:"withargs" help:"Apply all pending versions (the default). Safe to run from many places at once."`
	Down   migrateDown   `cmd:"" help:"Undo the newest version; not while instances run."`
	Status migrateStatus `cmd:"" help:"List the versions."`
	Feed   migrateFeed   `cmd:"" help:"Switch to another feed of new jobs, while instances run."`
}

type migrateUp struct {
	databaseFlags
	rolesFlags
	WithoutTriggers bool `help:"For the WAL feed: publish the table instead of creating triggers, as migrate feed wal does."`
	Repair          bool `env:"-" help:"If no version is pending, create what somebody has dropped or deleted from the schema: tables, columns, indexes, functions, triggers. It does not bring back what they contained."`
}

func (c *migrateUp) Run(ctx context.Context, out cli.Output) error {
	if done, err := c.print(out, c.databaseFlags); done || err != nil {
		return err
	}
	names, err := pgsource.MigrateUp(ctx, c.connString(), c.names())
	if err != nil {
		return err
	}
	for _, name := range names {
		fmt.Fprintf(out.Stdout, "applied %s\n", name)
	}
	if len(names) > 0 {
		return c.finish(ctx, out)
	}
	if c.Repair {
		if err := pgsource.Repair(ctx, c.connString(), c.names()); err != nil {
			return err
		}
		fmt.Fprintln(out.Stdout, "created again what was missing of the schema")
		return c.finish(ctx, out)
	}
	restored, err := pgsource.RestoreTable(ctx, c.connString(), c.names())
	switch {
	case err != nil:
		return err
	case restored != "":
		fmt.Fprintf(out.Stdout, "created the table %s again, because it was missing\n", cli.Visible(restored))
	default:
		fmt.Fprintln(out.Stdout, "nothing to do: the schema is up to date")
	}
	return c.finish(ctx, out)
}

// finish does what else the flags ask for.
func (c *migrateUp) finish(ctx context.Context, out cli.Output) error {
	if c.WithoutTriggers {
		if err := c.feed(ctx, out); err != nil {
			return err
		}
	}
	return c.create(ctx, out, c.databaseFlags)
}

func (c *migrateUp) feed(ctx context.Context, out cli.Output) error {
	return changeFeed(ctx, out, pgsource.FeedSwitch{DatabaseURL: c.connString(), Names: c.names(), To: pgsource.FeedWAL})
}

type migrateFeed struct {
	databaseFlags
	To       pgsource.Feed `arg:"" help:"wal: the instances read the server's log, the triggers are dropped. notify: back to the triggers."`
	Patience time.Duration `default:"1m" help:"How long to wait for instances, and for transactions that hold locks on the table."`
}

// Help is shown by `reactor migrate feed --help`.
func (*migrateFeed) Help() string {
	return `The command creates what the new feed needs, waits until all instances report that they use it, and
only then drops what the old feed needs. No job is lost or late meanwhile. Instances switch by
themselves, unless they were started with another --feed than auto.`
}

func (c *migrateFeed) Run(ctx context.Context, out cli.Output) error {
	if c.To != pgsource.FeedWAL && c.To != pgsource.FeedNotify {
		return cli.Usage(fmt.Errorf("a deployment cannot be switched to %s: use wal or notify", c.To))
	}
	if err := checkPatience(c.Patience); err != nil {
		return err
	}
	return changeFeed(ctx, out, pgsource.FeedSwitch{DatabaseURL: c.connString(), Names: c.names(), To: c.To, Patience: c.Patience})
}

// checkPatience refuses 0, too: the libraries would take it for their default.
func checkPatience(patience time.Duration) error {
	if patience < time.Millisecond {
		return cli.Usage(fmt.Errorf("--patience is %v, must be 1ms at least", patience))
	}
	return nil
}

func changeFeed(ctx context.Context, out cli.Output, change pgsource.FeedSwitch) error {
	change.Tell = func(step string) { fmt.Fprintln(out.Stdout, cli.Visible(cli.InFlagTerms(step))) }
	return change.Run(ctx)
}

type migrateDown struct {
	databaseFlags
	Yes bool `env:"-" help:"Undo the first version, too: drops the table jobs with all jobs in it."`
}

func (c *migrateDown) Run(ctx context.Context, out cli.Output) error {
	plan, err := pgsource.PlanDown(ctx, c.connString(), c.names())
	switch {
	case err != nil:
		return err
	case plan.Name == "":
		fmt.Fprintln(out.Stdout, "nothing to undo")
		return nil
	case plan.Loses != "" && !c.Yes:
		return fmt.Errorf("undoing %s would drop %s: add --yes if you mean it", plan.Name, plan.Loses)
	}
	name, err := pgsource.MigrateDown(ctx, c.connString(), plan, c.names())
	if err != nil {
		return err
	}
	fmt.Fprintf(out.Stdout, "undid %s\n", name)
	if plan.Loses != "" {
		fmt.Fprintf(out.Stdout, "dropped %s\n", plan.Loses)
	}
	return nil
}

type migrateStatus struct {
	databaseFlags
	JSON bool `env:"-" name:"json" help:"Print JSON: an object with the list versions."`
}

// versionJSON is a version of the schema in JSON.
type versionJSON struct {
	Version   int64  `json:"version"`
	Name      string `json:"name"`
	AppliedAt string `json:"applied_at,omitempty"` // not there: it is pending
}

func (c *migrateStatus) Run(ctx context.Context, out cli.Output) error {
	states, err := pgsource.MigrateStatus(ctx, c.connString(), c.names())
	if err != nil {
		return err
	}
	if c.JSON {
		list := []versionJSON{}
		for _, s := range states {
			v := versionJSON{Version: s.Version, Name: s.Name}
			if !s.AppliedAt.IsZero() {
				v.AppliedAt = exactText(s.AppliedAt)
			}
			list = append(list, v)
		}
		return writeJSON(out.Stdout, map[string]any{"versions": list}, true)
	}
	var rows [][]string
	for _, s := range states {
		applied := "pending"
		if !s.AppliedAt.IsZero() {
			applied = s.AppliedAt.Format(time.RFC3339)
		}
		rows = append(rows, []string{fmt.Sprint(s.Version), s.Name, applied})
	}
	return writeTable(out.Stdout, []column{{"VERSION", whole}, {"NAME", whole}, {"APPLIED", whole}}, rows)
}
