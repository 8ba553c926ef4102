package main

import (
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
	Schedule *int64    `env:"-" group:"Which jobs" placeholder:"ID" help:"Occurrences of this schedule."`
	From     jobTime   `env:"-" group:"Which jobs" placeholder:"TIME" help:"Jobs due at this time or later, e.g. 2030-01-31T08:00:00Z or --from=-2h."`
	Until    jobTime   `env:"-" group:"Which jobs" placeholder:"TIME" help:"Jobs due before this time, e.g. +5m, now."`
}

// given reports whether any flag was.
func (f jobFilterFlags) given() bool {
	return len(f.State) > 0 || f.Topic != "" || f.Schedule != nil || f.From.given || f.Until.given
}

// filter returns the filter; now is the database's time.
func (f jobFilterFlags) filter(now driver.DBTime) (filter pgsource.JobFilter, err error) {
	filter = pgsource.JobFilter{States: f.State, TopicPrefix: string(f.Topic), From: f.From.at(now), Until: f.Until.at(now)}
	if f.Schedule != nil {
		// 0 would select the jobs of all schedules, and of none.
		if filter.Schedule = *f.Schedule; filter.Schedule < 1 {
			return filter, cli.Usage(fmt.Errorf("--schedule is %d, must be the id of a schedule: SELECT id, name FROM reactor.schedules lists them", *f.Schedule))
		}
	}
	if filter.From != nil && filter.Until != nil && *filter.From >= *filter.Until {
		return filter, cli.Usage(errors.New("--from is not before --until, so that no job matches"))
	}
	return filter, nil
}

func join(states []pgsource.JobState) string {
	var names []string
	for _, s := range states {
		names = append(names, string(s))
	}
	return strings.Join(names, ", ")
}
