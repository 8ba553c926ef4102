package main

import (
	"context"
	"fmt"
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
	PartitionsAhead  int           `env:"-" field:"PartitionsAhead" name:"ahead" default:"${partitions_ahead}" help:"For how many intervals after the present one to make partitions."`
	RetainPartitions time.Duration `env:"-" field:"RetainPartitions" name:"retain" default:"0s" help:"How long after its end to keep a partition whose jobs are all published, e.g. 720h; 0s keeps all."`
	Patience         time.Duration `env:"-" default:"1m" help:"How long to wait for transactions that hold locks on the table."`
}

// Help is shown by `reactor partitions maintain --help`.
func (*partitionsMaintain) Help() string {
	return `Instances do the same by themselves, every ten minutes, if their role owns the table: see
--partitions-ahead and --retain-partitions of reactor run. No job is late for it.`
}

func (c *partitionsMaintain) Run(ctx context.Context, out cli.Output) error {
	if err := checkPatience(c.Patience); err != nil {
		return err
	}
	changes := 0
	err := pgsource.Partitions{
		DatabaseURL: c.connString(), Names: c.names(), Ahead: c.PartitionsAhead, Retain: c.RetainPartitions, Patience: c.Patience,
		Tell: func(step string) {
			changes++
			fmt.Fprintln(out.Stdout, cli.Visible(step))
		},
	}.Maintain(ctx)
	if err == nil && changes == 0 {
		fmt.Fprintln(out.Stdout, "nothing to do")
	}
	return err
}

type partitionsConvert struct {
	databaseFlags
	Interval time.Duration `env:"-" default:"24h" help:"The range of a partition, in UTC: an hour to a year."`
}

// Help is shown by `reactor partitions convert --help`.
func (*partitionsConvert) Help() string {
	return `All jobs are copied in one transaction: an empty table takes no time, a large one minutes, in which no
job can be inserted or published. Stop the instances first. Jobs that fall due meanwhile are published
afterwards. sql/partitions.sql says what changes, and what is refused.`
}

func (c *partitionsConvert) Run(ctx context.Context, out cli.Output) error {
	if c.Interval < time.Hour || c.Interval > 366*24*time.Hour || c.Interval%time.Minute != 0 {
		return cli.Usage(fmt.Errorf("--interval is %v, must be 1h to 8784h, in whole minutes", c.Interval))
	}
	if err := pgsource.ConvertToPartitions(ctx, c.connString(), c.Interval, c.names()); err != nil {
		return err
	}
	list, _, err := pgsource.ListPartitions(ctx, c.connString(), c.names())
	if err == nil {
		fmt.Fprintf(out.Stdout, "the table has %d partitions\n", len(list))
	}
	return err
}

type partitionsStatus struct {
	databaseFlags
	JSON bool `env:"-" name:"json" help:"Print JSON: an object with interval and the list partitions."`
}

// partitionJSON is a partition in JSON.
type partitionJSON struct {
	Name    string `json:"name"`
	From    string `json:"from,omitempty"` // not there: it is the default partition
	To      string `json:"to,omitempty"`
	Default bool   `json:"default,omitempty"`
	Bytes   int64  `json:"bytes"`
	Waiting bool   `json:"jobs_waiting"`
}

func (c *partitionsStatus) Run(ctx context.Context, out cli.Output) error {
	list, interval, err := pgsource.ListPartitions(ctx, c.connString(), c.names())
	if err != nil {
		return err
	}
	if c.JSON {
		answer := struct {
			Interval   string          `json:"interval"`
			Partitions []partitionJSON `json:"partitions"`
		}{interval.String(), []partitionJSON{}}
		for _, p := range list {
			j := partitionJSON{Name: p.Name, Default: p.Default, Bytes: p.Bytes, Waiting: p.Waiting}
			if !p.Default {
				j.From, j.To = timeText(p.From), timeText(p.To)
			}
			answer.Partitions = append(answer.Partitions, j)
		}
		return writeJSON(out.Stdout, answer, true)
	}
	var rows [][]string
	for _, p := range list {
		from, to, waiting := "", "", "no"
		if !p.Default {
			from, to = p.From.Time().UTC().Format(time.RFC3339), p.To.Time().UTC().Format(time.RFC3339)
		}
		if p.Waiting {
			waiting = "yes"
		}
		rows = append(rows, []string{p.Name, from, to, fmt.Sprint(p.Bytes >> 20), waiting})
	}
	if err := writeTable(out.Stdout, []column{{"PARTITION", inTheHalf}, {"FROM", whole}, {"TO", whole}, {"MB", whole}, {"JOBS WAITING", whole}}, rows); err != nil {
		return err
	}
	fmt.Fprintf(out.Stdout, "each partition is made for %v\n", interval)
	return nil
}
