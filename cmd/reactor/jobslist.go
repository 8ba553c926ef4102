package main

import (
	"context"
	"fmt"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/pgsource"
)

type jobsList struct {
	databaseFlags
	jobFilterFlags
	Key    nonEmpty `env:"-" group:"Which jobs" placeholder:"KEY" help:"Jobs with this key."`
	Limit  int      `env:"-" default:"50" help:"The largest number of jobs, up to 10000."`
	After  nonEmpty `env:"-" placeholder:"PLACE" help:"Go on where the page before has ended, which says so."`
	Latest bool     `env:"-" help:"The latest fire_at first."`
	JSON   bool     `env:"-" name:"json" help:"Print JSON: an object with the list jobs and, if there is more, next, for --after."`
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
	Name     string            `json:"schedule,omitempty"`
	Attempts int               `json:"attempts"`
	Code     int               `json:"code,omitempty"`
	CodeText string            `json:"code_text,omitempty"`
	Reason   string            `json:"reason,omitempty"`
	RetryAt  string            `json:"retry_at,omitempty"`
	FailedAt string            `json:"failed_at,omitempty"`
	Order    string            `json:"ordering_key,omitempty"`
	WaitsFor *beforeJSON       `json:"waits_for,omitempty"`
}

// beforeJSON is the job for which another one waits.
type beforeJSON struct {
	ID      int64             `json:"id"`
	State   pgsource.JobState `json:"state"`
	RetryAt string            `json:"retry_at,omitempty"`
}

func jsonOf(j pgsource.Job) jobJSON {
	var before *beforeJSON
	if b := j.WaitsFor; b != nil {
		before = &beforeJSON{b.ID, b.State, timeTextOf(b.RetryAt)}
	}
	return jobJSON{
		ID: j.ID, State: j.State, FireAt: exactText(j.FireTime()), Topic: j.Topic, Key: j.Key, Schedule: j.Schedule, Name: j.ScheduleName, Attempts: j.Attempts,
		Code: j.Code, CodeText: codeText(j.Code), Reason: j.Reason, RetryAt: timeTextOf(j.RetryAt), FailedAt: timeTextOf(j.FailedAt), Order: j.OrderingKey, WaitsFor: before,
	}
}

func (c *jobsList) Run(ctx context.Context, out cli.Output) error {
	if c.Limit < 1 || c.Limit > 10_000 {
		return cli.Usage(fmt.Errorf("--limit is %d, must be 1 to 10000", c.Limit))
	}
	page := pgsource.JobPage{Limit: c.Limit, Latest: c.Latest}
	if c.After != "" {
		cursor, err := pgsource.ParseJobCursor(string(c.After))
		if err != nil {
			return cli.Usage(fmt.Errorf("--after %s %w", string(c.After), err))
		}
		page.After = &cursor
	}
	return pgsource.WithJobs(ctx, c.connString(), false, func(a *pgsource.JobsAdmin) error {
		now, err := a.Now(ctx)
		if err != nil {
			return err
		}
		filter, err := c.filter(ctx, a, now)
		if err != nil {
			return err
		}
		filter.Key = string(c.Key)
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
			fmt.Fprintf(out.Stdout, "there are more: add --after=%s\n", next)
		}
		return nil
	}, c.names())
}

func writeJobs(out cli.Output, list []pgsource.Job) error {
	if len(list) == 0 {
		fmt.Fprintln(out.Stdout, "no jobs")
		return nil
	}
	var rows [][]string
	for _, j := range list {
		rows = append(rows, []string{fmt.Sprint(j.ID), string(j.State), shortText(j.FireTime()), j.Topic, j.Key, fmt.Sprint(j.Attempts), reasonText(j)})
	}
	return writeTable(out.Stdout, jobColumns, rows)
}

var jobColumns = []column{{"ID", whole}, {"STATE", whole}, {"FIRE AT", whole}, {"TOPIC", inTheHalf}, {"KEY", inTheHalf}, {"ATTEMPTS", whole}, {"REASON", atTheEnd}}

// reasonText is why a job is in its state.
func reasonText(j pgsource.Job) string {
	reason := j.Reason
	if j.RetryAt != nil {
		reason = "next attempt at " + shortText(j.RetryAt.Time()) + ": " + reason
	}
	switch waits := waitsText(j); {
	case waits == "":
		return reason
	case reason == "":
		return waits
	default:
		return waits + "; " + reason
	}
}

// waitsText is for which job with its ordering_key a job waits, and why that one has not ended.
func waitsText(j pgsource.Job) string {
	b := j.WaitsFor
	switch {
	case b == nil:
		return ""
	case b.State == pgsource.JobBlocked:
		return fmt.Sprintf("blocked by job %d, which cannot be claimed", b.ID)
	case b.Failed():
		return fmt.Sprintf("blocked by %s job %d", b.State, b.ID)
	case b.State == pgsource.JobFiring:
		return fmt.Sprintf("waits for job %d, which is being published", b.ID)
	case b.RetryAt != nil:
		return fmt.Sprintf("waits for job %d, which is to be tried again at %s", b.ID, shortText(b.RetryAt.Time()))
	}
	return fmt.Sprintf("waits for job %d", b.ID)
}
