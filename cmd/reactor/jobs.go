package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

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
	State    []string `env:"-" group:"Which jobs" placeholder:"STATE" help:"Jobs in these states: waiting, retrying, blocked, firing, returning, fired, failed, expired, missed."`
	Topic    string   `env:"-" group:"Which jobs" placeholder:"PREFIX" help:"Jobs whose topic begins with this."`
	Schedule int64    `env:"-" group:"Which jobs" placeholder:"ID" help:"Occurrences of this schedule."`
	From     jobTime  `env:"-" group:"Which jobs" placeholder:"TIME" help:"Jobs due at this time or later, e.g. 2030-01-31T08:00:00Z or --from=-2h."`
	Until    jobTime  `env:"-" group:"Which jobs" placeholder:"TIME" help:"Jobs due before this time, e.g. +5m, now."`
}

// given reports whether any flag was.
func (f jobFilterFlags) given() bool {
	return len(f.State) > 0 || f.Topic != "" || f.Schedule != 0 || f.From.given || f.Until.given
}

// filter returns the filter; now is the database's time.
func (f jobFilterFlags) filter(now driver.DBTime) (filter pgsource.JobFilter, err error) {
	filter = pgsource.JobFilter{TopicPrefix: f.Topic, Schedule: f.Schedule, From: f.From.at(now), Until: f.Until.at(now)}
	for _, name := range f.State {
		if !slices.Contains(pgsource.JobStates, pgsource.JobState(name)) {
			return filter, cli.Usage(fmt.Errorf("--state %s: there is no such state: use %s", visible(name), join(pgsource.JobStates)))
		}
		filter.States = append(filter.States, pgsource.JobState(name))
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

// jobTime is an instant, or a distance from now on the database's clock.
type jobTime struct {
	given    bool
	absolute driver.DBTime
	distance *time.Duration
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *jobTime) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	*t = jobTime{given: true}
	if s == "now" {
		t.distance = new(time.Duration)
		return nil
	}
	if strings.HasPrefix(s, "+") || strings.HasPrefix(s, "-") {
		d, err := distance(s)
		if err != nil {
			return errors.New("is no distance from now: use for example +90s, +2h30m or -7d")
		}
		t.distance = &d
		return nil
	}
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return errors.New("is no time: use for example 2030-01-31T08:00:00Z, 2030-01-31T09:00:00+01:00, now, +5m or -2h")
	}
	t.absolute = driver.DBTimeOf(at)
	return nil
}

// distance is time.ParseDuration, and knows days.
func distance(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.Atoi(days)
		if err == nil && (n > 100_000 || n < -100_000) {
			err = strconv.ErrRange
		}
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(s)
}

// at returns the instant; nil if the flag was not given.
func (t jobTime) at(now driver.DBTime) *driver.DBTime {
	switch {
	case !t.given:
		return nil
	case t.distance != nil:
		at := now.Add(*t.distance)
		return &at
	}
	return &t.absolute
}
