package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// jobsCommand is `reactor jobs`.
type jobsCommand struct {
	List       jobsList       `cmd:"" default:"withargs" help:"List jobs, by pages (the default)."`
	Show       jobsShow       `cmd:"" help:"Show everything about one job, with its history."`
	Cancel     jobsCancel     `cmd:"" help:"Cancel jobs that have not fired: their rows are deleted."`
	Reschedule jobsReschedule `cmd:"" help:"Move jobs that have not fired to another time."`
	Fire       jobsFire       `cmd:"" help:"Make jobs that have not fired due at once."`
	Retry      jobsRetry      `cmd:"" help:"Have jobs that failed, expired or were missed tried again, with all their attempts."`
	Purge      jobsPurge      `cmd:"" help:"Delete the rows of jobs that ended long ago."`
}

// jobFilterFlags select jobs.
type jobFilterFlags struct {
	State    jobStates `env:"-" group:"Which jobs" placeholder:"STATE,…" help:"Jobs in these states: waiting, retrying, blocked, firing, returning, fired, failed, expired, missed."`
	Topic    nonEmpty  `env:"-" group:"Which jobs" placeholder:"PREFIX" help:"Jobs whose topic begins with this."`
	Schedule nonEmpty  `env:"-" group:"Which jobs" placeholder:"NAME" help:"Jobs of the schedule with this name or, where none has it, with this id: of a schedule that was deleted."`
	From     jobTime   `env:"-" group:"Which jobs" placeholder:"TIME" help:"Jobs due at this time or later, e.g. 2030-01-31T08:00:00Z or --from=-2h."`
	Until    jobTime   `env:"-" group:"Which jobs" placeholder:"TIME" help:"Jobs due before this time, e.g. +5m, now."`
}

// given reports whether any flag was.
func (f jobFilterFlags) given() bool {
	return len(f.State) > 0 || f.Topic != "" || f.Schedule != "" || f.From.given || f.Until.given
}

// filter returns the filter; now is the database's time.
func (f jobFilterFlags) filter(ctx context.Context, a *pgsource.JobsAdmin, now driver.DBTime) (filter pgsource.JobFilter, err error) {
	filter = pgsource.JobFilter{States: f.State, TopicPrefix: string(f.Topic), From: f.From.at(now), Until: f.Until.at(now)}
	if filter.From != nil && filter.Until != nil && *filter.From >= *filter.Until {
		return filter, cli.Usage(errors.New("--from is not before --until, so that no job matches"))
	}
	if f.Schedule != "" {
		if filter.Schedule, err = a.ScheduleID(ctx, string(f.Schedule)); errors.Is(err, pgsource.ErrNoSchedule) {
			err = cli.Usage(fmt.Errorf("--schedule %q: %w; of one that was deleted give the id, as `reactor jobs show` names it", string(f.Schedule), err))
		}
	}
	return filter, err
}

func join(states []pgsource.JobState) string {
	var names []string
	for _, s := range states {
		names = append(names, string(s))
	}
	return strings.Join(names, ", ")
}
