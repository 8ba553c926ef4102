package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/pgsource"
)

// partitionsCommand is `reactor partitions`.
type partitionsCommand struct {
	Maintain partitionsMaintain `cmd:"" default:"withargs" help:"Make the partitions of the next intervals, and drop old ones (the default). Safe to run at any time, from cron."`
	Convert  partitionsConvert  `cmd:"" help:"Make the table one with partitions, with all its jobs; not while instances run."`
	Status   partitionsStatus   `cmd:"" help:"List the partitions."`
}

type partitionsMaintain struct {
	databaseFlags
	PartitionsAhead  int           `name:"ahead" default:"${partitions_ahead}" help:"For how many intervals after the present one to make partitions."`
	RetainPartitions time.Duration `name:"retain" default:"0s" help:"How long after its end to keep a partition whose jobs are all published, e.g. 720h; 0s keeps all."`
	Patience         time.Duration `default:"1m" help:"How long to wait for transactions that hold locks on the table."`
}

// Help is shown by `reactor partitions maintain --help`.
func (*partitionsMaintain) Help() string {
	return `Instances do the same by themselves, every ten minutes, if their role owns the table: see
--partitions-ahead and --retain-partitions of reactor run. No job is late for it.`
}

func (c *partitionsMaintain) Run(ctx context.Context, out cli.Output) error {
	changes := 0
	err := pgsource.Partitions{
		DatabaseURL: c.DatabaseURL, Names: c.names(), Ahead: c.PartitionsAhead, Retain: c.RetainPartitions, Patience: c.Patience,
		Tell: func(step string) {
			changes++
			fmt.Fprintln(out.Stdout, step)
		},
	}.Maintain(ctx)
	if err == nil && changes == 0 {
		fmt.Fprintln(out.Stdout, "nothing to do")
	}
	return err
}

type partitionsConvert struct {
	databaseFlags
	Interval time.Duration `default:"24h" help:"The range of a partition, in UTC: an hour to a year."`
}

// Help is shown by `reactor partitions convert --help`.
func (*partitionsConvert) Help() string {
	return `All jobs are copied in one transaction: an empty table takes no time, a large one minutes, in which no
job can be inserted or published. Stop the instances first. Jobs that fall due meanwhile are published
afterwards. sql/partitions.sql says what changes, and what is refused.`
}

func (c *partitionsConvert) Run(ctx context.Context, out cli.Output) error {
	if c.Interval <= 0 {
		return cli.Usage(errors.New("--interval must be an hour to a year"))
	}
	if err := pgsource.ConvertToPartitions(ctx, c.DatabaseURL, c.Interval, c.names()); err != nil {
		return err
	}
	list, _, err := pgsource.ListPartitions(ctx, c.DatabaseURL, c.names())
	if err == nil {
		fmt.Fprintf(out.Stdout, "the table has %d partitions\n", len(list))
	}
	return err
}

type partitionsStatus struct{ databaseFlags }

func (c *partitionsStatus) Run(ctx context.Context, out cli.Output) error {
	list, interval, err := pgsource.ListPartitions(ctx, c.DatabaseURL, c.names())
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PARTITION\tFROM\tTO\tMB\tJOBS WAITING")
	for _, p := range list {
		from, to, waiting := "", "", "no"
		if !p.Default {
			from, to = p.From.Time().UTC().Format(time.RFC3339), p.To.Time().UTC().Format(time.RFC3339)
		}
		if p.Waiting {
			waiting = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", p.Name, from, to, p.Bytes>>20, waiting)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out.Stdout, "each partition is made for %v\n", interval)
	return nil
}
