package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/job-publisher/reactor/pgsource"
)

// migrateCommand is `reactor migrate`.
type migrateCommand struct {
	Up     migrateUp     `cmd:"" help:"Apply all pending versions. Safe to run from many places at once."`
	Down   migrateDown   `cmd:"" help:"Undo the newest version; not while instances run."`
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
	if len(names) > 0 {
		return nil
	}
	restored, err := pgsource.RestoreTable(ctx, c.DatabaseURL)
	switch {
	case err != nil:
		return err
	case restored != "":
		fmt.Fprintf(out.stdout, "created the table %s anew: it was gone\n", restored)
	default:
		fmt.Fprintln(out.stdout, "nothing to do: the schema is up to date")
	}
	return nil
}

type migrateDown struct {
	databaseFlags
	Yes bool `help:"Undo the first version, too: drops the table jobs with all jobs in it."`
}

func (c *migrateDown) Run(ctx context.Context, out output) error {
	plan, err := pgsource.PlanDown(ctx, c.DatabaseURL)
	switch {
	case err != nil:
		return err
	case plan.Name == "":
		fmt.Fprintln(out.stdout, "nothing to undo")
		return nil
	case plan.Loses != "" && !c.Yes:
		return fmt.Errorf("undoing %s would drop %s: add --yes if you mean it", plan.Name, plan.Loses)
	}
	name, err := pgsource.MigrateDown(ctx, c.DatabaseURL, plan)
	if err != nil {
		return err
	}
	fmt.Fprintf(out.stdout, "undid %s\n", name)
	if plan.Loses != "" {
		fmt.Fprintf(out.stdout, "dropped %s\n", plan.Loses)
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
