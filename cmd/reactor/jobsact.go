package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/internal/words"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// jobsAct is what the commands that change jobs have in common.
type jobsAct struct {
	databaseFlags
	jobFilterFlags
	ID   []int64    `arg:"" optional:"" help:"Ids of jobs."`
	Key  []nonEmpty `env:"-" sep:"none" group:"Which jobs" placeholder:"KEY" help:"The job with this key. Can be repeated."`
	All  bool       `env:"-" group:"Which jobs" help:"All jobs that the command can change."`
	Yes  bool       `env:"-" help:"Do not ask before many jobs are changed."`
	JSON bool       `env:"-" name:"json" help:"Print an object for each job, one a line, on stdout, and the summary on stderr."`
}

const actHelp = `Jobs that are named by id or key are changed at once. Jobs that are selected by their properties are
counted, and changed after you have confirmed it; jobs that begin to match later are not changed, nor are
those that do not match any more. Without a terminal, give --yes.

The exit status is 1 if a job was not changed: it was too late, or somebody has locked its row.`

type jobsCancel struct{ jobsAct }

// Help is shown by `reactor jobs cancel --help`.
func (*jobsCancel) Help() string { return actHelp }

func (c *jobsCancel) Run(ctx context.Context, out cli.Output) error {
	return c.act(ctx, out, func(driver.DBTime) pgsource.JobAction { return pgsource.CancelJobs() })
}

type jobsReschedule struct {
	jobsAct
	At jobTime `env:"-" required:"" placeholder:"TIME" help:"The new time, e.g. 2030-01-31T08:00:00Z or +5m."`
}

// Help is shown by `reactor jobs reschedule --help`.
func (*jobsReschedule) Help() string { return actHelp }

func (c *jobsReschedule) Run(ctx context.Context, out cli.Output) error {
	return c.act(ctx, out, func(now driver.DBTime) pgsource.JobAction { return pgsource.RescheduleJobs(*c.At.at(now)) })
}

type jobsFire struct{ jobsAct }

// Help is shown by `reactor jobs fire --help`.
func (*jobsFire) Help() string { return actHelp }

func (c *jobsFire) Run(ctx context.Context, out cli.Output) error {
	return c.act(ctx, out, func(driver.DBTime) pgsource.JobAction { return pgsource.FireJobs() })
}

type jobsRetry struct {
	jobsAct
	ExpiresAt jobTime `env:"-" placeholder:"TIME" help:"Until when they may be published; without it they do not expire any more."`
}

// Help is shown by `reactor jobs retry --help`.
func (*jobsRetry) Help() string { return actHelp }

func (c *jobsRetry) Run(ctx context.Context, out cli.Output) error {
	return c.act(ctx, out, func(now driver.DBTime) pgsource.JobAction { return pgsource.RetryJobs(c.ExpiresAt.at(now)) })
}

func (c *jobsAct) act(ctx context.Context, out cli.Output, action func(now driver.DBTime) pgsource.JobAction) error {
	named, bulk := len(c.ID) > 0 || len(c.Key) > 0, c.given() || c.All
	switch {
	case named && bulk:
		return cli.Usage(errors.New("give ids and keys, or what selects jobs by their properties, and not both"))
	case !named && !bulk:
		return cli.Usage(errors.New("say which jobs: ids, --key, or what selects them such as --topic; --all for all that can be changed"))
	}
	return pgsource.WithJobs(ctx, c.connString(), true, func(a *pgsource.JobsAdmin) error {
		now, err := a.Now(ctx)
		if err != nil {
			return err
		}
		report := &actReport{action: action(now), out: out, json: c.JSON, every: named, counts: map[string]int64{}}
		if named {
			err = c.named(ctx, a, report)
		} else {
			err = c.bulk(ctx, out, a, report, now)
		}
		if report.total == 0 {
			return err
		}
		report.summary()
		if err == nil && report.total > report.counts[report.action.Done] {
			err = fmt.Errorf("%s of %s jobs were not changed", words.Thousands(report.total-report.counts[report.action.Done]), words.Thousands(report.total))
		}
		return err
	}, c.names())
}

func (c *jobsAct) named(ctx context.Context, a *pgsource.JobsAdmin, report *actReport) error {
	if err := a.Act(ctx, report.action, c.ID, pgsource.JobFilter{}, report.tell); err != nil {
		return err
	}
	for _, key := range c.Key {
		outcome, err := a.ActByKey(ctx, report.action, string(key))
		if err == nil {
			err = report.tell(outcome)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *jobsAct) bulk(ctx context.Context, out cli.Output, a *pgsource.JobsAdmin, report *actReport, now driver.DBTime) error {
	a.Intend(report.action)
	filter, err := c.filter(ctx, a, now)
	if err != nil {
		return err
	}
	for _, state := range filter.States {
		if !slices.Contains(report.action.Acts, state) {
			return cli.Usage(fmt.Errorf("--state %s: %s changes jobs that are %s", state, report.action.Name, join(report.action.Acts)))
		}
	}
	if len(filter.States) == 0 {
		filter.States = report.action.Acts
	}
	ids, err := a.Select(ctx, filter)
	if err != nil {
		return err
	}
	if len(ids) == 0 {
		fmt.Fprintln(out.Stderr, "no job matches")
		return nil
	}
	if err := confirm(ctx, out, report.action.Name+" "+words.Jobs(int64(len(ids))), c.Yes); err != nil {
		return err
	}
	return a.Act(ctx, report.action, ids, filter, report.tell)
}

// actReport prints what became of each job, and a summary.
type actReport struct {
	action pgsource.JobAction
	out    cli.Output
	json   bool
	every  bool // false: jobs that were changed are only counted
	counts map[string]int64
	total  int64
}

func (r *actReport) tell(o pgsource.JobOutcome) error {
	r.total++
	kind, _, _ := strings.Cut(o.Answer, ": ") // "refused: …"
	r.counts[kind]++
	if r.json {
		return writeJSON(r.out.Stdout, struct {
			ID     int64  `json:"id,omitempty"`
			Key    string `json:"key,omitempty"`
			Answer string `json:"answer"`
			Done   bool   `json:"done"`
		}{o.ID, o.Key, o.Answer, o.Done}, false)
	}
	if o.Done && !r.every {
		return nil
	}
	name := fmt.Sprint(o.ID)
	if o.Key != "" {
		name = "key " + cli.Visible(o.Key)
	}
	_, err := fmt.Fprintf(r.out.Stdout, "%s: %s\n", name, cli.Visible(o.Answer))
	return err
}

// summary counts the answers, the most frequent first.
func (r *actReport) summary() {
	var parts []string
	for _, answer := range slices.SortedFunc(maps.Keys(r.counts), func(x, y string) int {
		return cmp.Or(cmp.Compare(r.counts[y], r.counts[x]), cmp.Compare(x, y))
	}) {
		parts = append(parts, fmt.Sprintf("%s: %s", cli.Visible(answer), words.Thousands(r.counts[answer])))
	}
	w := r.out.Stdout
	if r.json {
		w = r.out.Stderr
	}
	fmt.Fprintln(w, strings.Join(parts, "; "))
}
