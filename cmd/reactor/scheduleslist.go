package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/pgsource"
)

type schedulesList struct {
	databaseFlags
	State scheduleStates `env:"-" group:"Which schedules" placeholder:"STATE,…" help:"Schedules in these states: active, paused, problem, ended."`
	Name  nonEmpty       `env:"-" group:"Which schedules" placeholder:"PREFIX" help:"Schedules whose name begins with this."`
	Topic nonEmpty       `env:"-" group:"Which schedules" placeholder:"PREFIX" help:"Schedules whose topic begins with this."`
	From  jobTime        `env:"-" group:"Which schedules" placeholder:"TIME" help:"Schedules whose next occurrence to be made is at this time or later, e.g. 2030-01-31T08:00:00Z or +1h."`
	Until jobTime        `env:"-" group:"Which schedules" placeholder:"TIME" help:"Schedules whose next occurrence to be made is before this time."`
	Limit int            `env:"-" default:"50" help:"The largest number of schedules, up to 10000."`
	After nonEmpty       `env:"-" placeholder:"NAME" help:"Go on behind this name, with which the page before has ended."`
	JSON  bool           `env:"-" name:"json" help:"Print JSON, a line for each schedule."`
}

// Help is shown by `reactor schedules list --help`.
func (*schedulesList) Help() string {
	return `Schedules are listed in order of their names.

  reactor schedules list --state problem,paused
  reactor schedules list --topic reports/ --until +1h`
}

func (c *schedulesList) Run(ctx context.Context, out cli.Output) error {
	if c.Limit < 1 || c.Limit > 10_000 {
		return cli.Usage(fmt.Errorf("--limit is %d, must be 1 to 10000", c.Limit))
	}
	filter := pgsource.ScheduleFilter{States: c.State, NamePrefix: string(c.Name), TopicPrefix: string(c.Topic), After: string(c.After), Limit: c.Limit}
	if c.From.given || c.Until.given {
		now, err := pgsource.DatabaseTime(ctx, c.connString(), c.names())
		if err != nil {
			return err
		}
		filter.From, filter.Until = c.From.at(now), c.Until.at(now)
	}
	list, more, err := pgsource.FindSchedules(ctx, c.connString(), filter, c.names())
	if err != nil {
		return err
	}
	if c.JSON {
		for _, s := range list {
			if err := writeJSON(out.Stdout, viewOf(s), false); err != nil {
				return err
			}
		}
	} else if err := writeSchedules(out, list); err != nil {
		return err
	}
	if more {
		// Not on stdout, where each line of JSON is a schedule.
		fmt.Fprintf(out.Stderr, "there are more: add --after %s\n", quoted(list[len(list)-1].Name))
	}
	return nil
}

func writeSchedules(out cli.Output, list []pgsource.Schedule) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(out.Stdout, "no schedules")
		return err
	}
	var rows [][]string
	for _, s := range list {
		rows = append(rows, []string{s.Name, recurs(s), s.Zone, s.Message.Topic, moment(s.LastAt, s.Zone), moment(s.NextAt, s.Zone), state(s)})
	}
	return writeTable(out.Stdout, []column{{"NAME", inTheHalf}, {"RECURS", atTheEnd}, {"ZONE", whole}, {"TOPIC", inTheHalf}, {"LAST", whole}, {"NEXT", whole}, {"STATE", atTheEnd}}, rows)
}

// quoted is a text as a shell reads it.
func quoted(text string) string {
	return "'" + strings.ReplaceAll(cli.Visible(text), "'", `'\''`) + "'"
}

// scheduleStates are states, separated by commas. The flag can be repeated.
type scheduleStates []pgsource.ScheduleState

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *scheduleStates) UnmarshalText(text []byte) error {
	for name := range strings.SplitSeq(string(text), ",") {
		state := pgsource.ScheduleState(strings.TrimSpace(name))
		if !slices.Contains(pgsource.ScheduleStates, state) {
			return fmt.Errorf("there is no such state as %q: use active, paused, problem, ended", name)
		}
		*s = append(*s, state)
	}
	return nil
}
