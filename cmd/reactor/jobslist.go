package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/pgsource"
)

type jobsList struct {
	databaseFlags
	jobFilterFlags
	Key    string `env:"-" group:"Which jobs" placeholder:"KEY" help:"Jobs with this key."`
	Limit  int    `env:"-" default:"50" help:"The largest number of jobs, up to 10000."`
	After  string `env:"-" placeholder:"PLACE" help:"Go on where the page before has ended, which says so."`
	Latest bool   `env:"-" help:"The latest fire_at first."`
	JSON   bool   `env:"-" name:"json" help:"Print JSON: an object with the list jobs and, if there is more, next, for --after."`
}

// Help is shown by `reactor jobs list --help`.
func (*jobsList) Help() string {
	return `Jobs are listed in order of fire_at, and of id within one instant.

  reactor jobs list --state waiting --until +1h
  reactor jobs list --state failed,expired,missed --latest

A page of waiting jobs is read from an index, from its place on; where few of them have the topic or the
schedule, up to all that wait are read. A page of the other states but fired is read from what is noted
of those jobs. A page of fired jobs, or of all states, reads the whole table, except with --key.

waiting: nobody has claimed it. retrying: refused, it waits for its next attempt. blocked: due, and its
row cannot be changed. firing: claimed, being published. returning: claimed and not sent, about to wait
again. fired: published, or marked as processed. failed, expired, missed: ended without being published.`
}

// jobJSON is a job in JSON.
type jobJSON struct {
	ID       int64             `json:"id"`
	State    pgsource.JobState `json:"state"`
	FireAt   string            `json:"fire_at"`
	Topic    string            `json:"topic"`
	Key      string            `json:"key,omitempty"`
	Schedule int64             `json:"schedule_id,omitempty"`
	Attempts int               `json:"attempts"`
	Code     int               `json:"code,omitempty"`
	CodeText string            `json:"code_text,omitempty"`
	Reason   string            `json:"reason,omitempty"`
	RetryAt  string            `json:"retry_at,omitempty"`
	FailedAt string            `json:"failed_at,omitempty"`
}

func jsonOf(j pgsource.Job) jobJSON {
	return jobJSON{
		ID: j.ID, State: j.State, FireAt: timeText(j.FireAt), Topic: j.Topic, Key: j.Key, Schedule: j.Schedule, Attempts: j.Attempts,
		Code: j.Code, CodeText: codeText(j.Code), Reason: j.Reason, RetryAt: timeTextOf(j.RetryAt), FailedAt: timeTextOf(j.FailedAt),
	}
}

func (c *jobsList) Run(ctx context.Context, out cli.Output) error {
	if c.Limit < 1 || c.Limit > 10_000 {
		return cli.Usage(fmt.Errorf("--limit is %d, must be 1 to 10000", c.Limit))
	}
	page := pgsource.JobPage{Limit: c.Limit, Latest: c.Latest}
	if c.After != "" {
		cursor, err := pgsource.ParseJobCursor(c.After)
		if err != nil {
			return cli.Usage(fmt.Errorf("--after %s %w", visible(c.After), err))
		}
		page.After = &cursor
	}
	return pgsource.WithJobs(ctx, c.DatabaseURL, false, func(a *pgsource.JobsAdmin) error {
		now, err := a.Now(ctx)
		if err != nil {
			return err
		}
		filter, err := c.filter(now)
		if err != nil {
			return err
		}
		filter.Key = c.Key
		list, next, err := a.List(ctx, filter, page)
		if err != nil {
			return err
		}
		if c.JSON {
			answer := struct {
				Jobs []jobJSON `json:"jobs"`
				Next string    `json:"next,omitempty"`
			}{Jobs: []jobJSON{}}
			for _, j := range list {
				answer.Jobs = append(answer.Jobs, jsonOf(j))
			}
			if next != nil {
				answer.Next = next.String()
			}
			return writeJSON(out.Stdout, answer, true)
		}
		if err := writeJobs(out, list); err != nil {
			return err
		}
		if next != nil {
			fmt.Fprintf(out.Stdout, "there are more: add --after %s\n", next)
		}
		return nil
	}, c.names())
}

func writeJobs(out cli.Output, list []pgsource.Job) error {
	if len(list) == 0 {
		fmt.Fprintln(out.Stdout, "no jobs")
		return nil
	}
	terminal := cli.IsTerminal(out.Stdout)
	w := tabwriter.NewWriter(out.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tSTATE\tFIRE AT\tTOPIC\tKEY\tATTEMPTS\tREASON")
	for _, j := range list {
		reason := j.Reason
		if j.RetryAt != nil {
			reason = "next attempt at " + timeShort(*j.RetryAt) + ": " + reason
		}
		fmt.Fprintln(w, strings.Join([]string{
			fmt.Sprint(j.ID), visible(string(j.State)), timeShort(j.FireAt), short(j.Topic, 40, terminal), short(j.Key, 30, terminal), fmt.Sprint(j.Attempts), short(reason, 60, terminal),
		}, "\t"))
	}
	return w.Flush()
}
