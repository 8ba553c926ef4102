package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/job-publisher/reactor/pgsource"
)

// migrateCommand is `reactor migrate`.
type migrateCommand struct {
	Up     migrateUp     `cmd:"" help:"Apply all pending versions. Safe to run from many places at once."`
	Down   migrateDown   `cmd:"" help:"Undo the newest version."`
	Status migrateStatus `cmd:"" help:"List the versions."`
}

type migrateUp struct{ databaseFlags }

func (c *migrateUp) Run(ctx context.Context, out output) error {
	names, err := pgsource.MigrateUp(ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	for _, name := range names {
		fmt.Fprintf(out.stdout, "applied %s\n", name)
	}
	if len(names) == 0 {
		fmt.Fprintln(out.stdout, "nothing to do: the schema is up to date")
	}
	return nil
}

type migrateDown struct {
	databaseFlags
	Yes bool `help:"Undo the first version, too: drops the table jobs with all jobs in it."`
}

func (c *migrateDown) Run(ctx context.Context, out output) error {
	states, err := pgsource.MigrateStatus(ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	if len(states) > 0 && !states[0].AppliedAt.IsZero() && (len(states) == 1 || states[1].AppliedAt.IsZero()) && !c.Yes {
		return errors.New("this would drop the table jobs with all jobs in it: add --yes if you mean it")
	}
	name, err := pgsource.MigrateDown(ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	if name == "" {
		fmt.Fprintln(out.stdout, "nothing to undo")
	} else {
		fmt.Fprintf(out.stdout, "undid %s\n", name)
	}
	return nil
}

type migrateStatus struct{ databaseFlags }

func (c *migrateStatus) Run(ctx context.Context, out output) error {
	states, err := pgsource.MigrateStatus(ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "VERSION\tNAME\tAPPLIED")
	for _, s := range states {
		applied := "pending"
		if !s.AppliedAt.IsZero() {
			applied = s.AppliedAt.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\n", s.Version, s.Name, applied)
	}
	return w.Flush()
}
