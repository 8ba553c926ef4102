package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/internal/words"
	"github.com/job-publisher/reactor/internal/zones"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/schedule"
)

// schedulesCommand is `reactor schedules`.
type schedulesCommand struct {
	List     schedulesList     `cmd:"" default:"withargs" help:"List the schedules (the default)."`
	Show     schedulesShow     `cmd:"" help:"Show one schedule with all its settings."`
	Next     schedulesNext     `cmd:"" help:"Show when a schedule occurs next."`
	Add      schedulesAdd      `cmd:"" help:"Add a schedule."`
	Pause    schedulesPause    `cmd:"" help:"Pause a schedule. Its jobs that were not claimed are deleted."`
	Resume   schedulesResume   `cmd:"" help:"Go on after a pause. Occurrences of the pause are not made up for."`
	Run      schedulesRun      `cmd:"" help:"Run a schedule once, now, beside its occurrences."`
	Backfill schedulesBackfill `cmd:"" help:"Make the occurrences of a range in the past."`
	Delete   schedulesDelete   `cmd:"" help:"Delete a schedule, and its jobs that were not claimed."`
}

// scheduleFlags are what every command on one schedule has.
type scheduleFlags struct {
	databaseFlags
	Schedule string `arg:"" name:"name" help:"The name of the schedule."`
	JSON     bool   `env:"-" name:"json" help:"Print JSON."`
}

// done reports a change, as a sentence or as JSON.
func (c *scheduleFlags) done(out cli.Output, what string, err error) error {
	switch {
	case err != nil:
		return err
	case c.JSON:
		return writeJSON(out.Stdout, map[string]any{"schedule": c.Schedule, "outcome": what}, false)
	}
	_, err = fmt.Fprintf(out.Stdout, "%s %s\n", what, cli.Visible(c.Schedule))
	return err
}

// scheduleView is a schedule in JSON. Its fields have the names of the columns of reactor.schedules; the
// durations are written like those of flags.
type scheduleView struct {
	Name          string                 `json:"name"`
	Cron          string                 `json:"cron,omitempty"`
	Every         string                 `json:"every,omitempty"`
	Zone          string                 `json:"zone"`
	StartAt       *string                `json:"start_at"`
	EndAt         *string                `json:"end_at"`
	Jitter        string                 `json:"jitter"`
	Paused        bool                   `json:"paused"`
	Overlap       string                 `json:"overlap"`
	CatchUp       schedule.CatchUp       `json:"catch_up"`
	CatchUpWindow string                 `json:"catch_up_window"`
	MaxLateness   string                 `json:"max_lateness,omitempty"`
	Topic         string                 `json:"topic"`
	Payload       string                 `json:"payload"`
	PayloadBytes  []byte                 `json:"payload_bytes,omitempty"` // base64
	QoS           *int                   `json:"qos"`
	Retain        bool                   `json:"retain"`
	ContentType   string                 `json:"content_type,omitempty"`
	ResponseTopic string                 `json:"response_topic,omitempty"`
	Correlation   []byte                 `json:"correlation_data,omitempty"` // base64
	Headers       map[string]string      `json:"headers,omitempty"`
	OrderingKey   string                 `json:"ordering_key,omitempty"`
	State         pgsource.ScheduleState `json:"state"`
	Problem       string                 `json:"problem,omitempty"`
	LastAt        *string                `json:"last_at"`
	NextAt        *string                `json:"next_at"`
	Overlapped    int64                  `json:"overlapped"`
	CreatedAt     string                 `json:"created_at"`
}

func viewOf(s pgsource.Schedule) scheduleView {
	optional := func(t time.Time) *string {
		if t.IsZero() {
			return nil
		}
		text := exactText(t) // package json refuses years of more than four digits
		return &text
	}
	v := scheduleView{
		Name: s.Name, Cron: s.Cron, Zone: s.Zone, StartAt: optional(s.StartAt), EndAt: optional(s.EndAt), Jitter: s.Jitter.String(), Paused: s.Paused,
		Overlap: s.Overlap, CatchUp: s.CatchUp, CatchUpWindow: s.CatchUpWindow.String(), Topic: s.Message.Topic, Payload: s.Message.Payload, PayloadBytes: s.Message.PayloadBytes,
		QoS: s.Message.QoS, Retain: s.Message.Retain, ContentType: s.Message.ContentType, ResponseTopic: s.Message.ResponseTopic, Correlation: s.Message.CorrelationData, Headers: s.Message.Headers, OrderingKey: s.Message.OrderingKey,
		State: s.State, Problem: s.Problem, LastAt: optional(s.LastAt), NextAt: optional(s.NextAt), Overlapped: s.Overlapped, CreatedAt: exactText(s.CreatedAt),
	}
	if s.Every > 0 {
		v.Every = s.Every.String()
	}
	if s.MaxLateness > 0 {
		v.MaxLateness = s.MaxLateness.String()
	}
	return v
}

// recurs is the expression or the interval, in a table.
func recurs(s pgsource.Schedule) string {
	if s.Cron != "" {
		return s.Cron
	}
	return "every " + s.Every.String()
}

// state is what a person wants to know first.
func state(s pgsource.Schedule) string {
	if s.State == pgsource.ScheduleProblem {
		return "problem: " + s.Problem
	}
	return string(s.State)
}

// moment is a time in the zone of a schedule; "-" for none.
func moment(t time.Time, zone string) string {
	if t.IsZero() {
		return "-"
	}
	if loc, err := zones.Load(zone); err == nil {
		t = t.In(loc)
	}
	return t.Format(time.RFC3339)
}

type schedulesShow struct{ scheduleFlags }

func (c *schedulesShow) Run(ctx context.Context, out cli.Output) error {
	s, err := pgsource.FindSchedule(ctx, c.connString(), c.Schedule, c.names())
	switch {
	case err != nil:
		return err
	case c.JSON:
		return writeJSON(out.Stdout, viewOf(s), false)
	}
	w := tabwriter.NewWriter(out.Stdout, 0, 0, 2, ' ', 0)
	line := func(name string, value any) { fmt.Fprintf(w, "%s\t%s\n", name, cli.Visible(fmt.Sprint(value))) }
	line("name", s.Name)
	line("state", state(s))
	line("recurs", recurs(s))
	line("zone", s.Zone)
	line("start", moment(s.StartAt, s.Zone))
	line("end", moment(s.EndAt, s.Zone))
	line("jitter", s.Jitter)
	line("overlap", s.Overlap)
	line("catch up", fmt.Sprintf("%s (window %v)", s.CatchUp, s.CatchUpWindow))
	line("max lateness", orNone(s.MaxLateness > 0, s.MaxLateness))
	line("topic", s.Message.Topic)
	line("payload", beginning(s.Message.Payload))
	line("binary payload", orNone(s.Message.PayloadBytes != nil, fmt.Sprintf("%d bytes", len(s.Message.PayloadBytes))))
	qos := "that of the deployment"
	if s.Message.QoS != nil {
		qos = fmt.Sprint(*s.Message.QoS)
	}
	line("qos", qos)
	line("retain", s.Message.Retain)
	line("content type", orNone(s.Message.ContentType != "", s.Message.ContentType))
	line("response topic", orNone(s.Message.ResponseTopic != "", s.Message.ResponseTopic))
	line("correlation data", orNone(s.Message.CorrelationData != nil, fmt.Sprintf("%d bytes", len(s.Message.CorrelationData))))
	line("ordering key", orNone(s.Message.OrderingKey != "", s.Message.OrderingKey))
	for _, name := range slices.Sorted(maps.Keys(s.Message.Headers)) {
		line("header", name+"="+s.Message.Headers[name])
	}
	line("last", moment(s.LastAt, s.Zone))
	line("next to be made", moment(s.NextAt, s.Zone))
	line("left out by overlap", s.Overlapped)
	line("created", moment(s.CreatedAt, s.Zone))
	return w.Flush()
}

func orNone(given bool, value any) any {
	if !given {
		return "-"
	}
	return value
}

type schedulesNext struct {
	scheduleFlags
	Occurrences int `env:"-" short:"n" default:"10" help:"How many."`
}

// Help is shown by `reactor schedules next --help`.
func (*schedulesNext) Help() string {
	return `The times are in the schedule's zone, from the database's present time on. With a jitter, the second
column says when the job fires. A paused schedule is shown as if it were not.`
}

func (c *schedulesNext) Run(ctx context.Context, out cli.Output) error {
	if c.Occurrences < 1 || c.Occurrences > 100_000 {
		return cli.Usage(fmt.Errorf("--occurrences is %d, must be 1 to 100000", c.Occurrences))
	}
	list, zone, err := pgsource.NextOccurrences(ctx, c.connString(), c.Schedule, c.Occurrences, c.names())
	if err != nil {
		return err
	}
	for _, o := range list {
		at, fire := o.At.In(zone).Format(time.RFC3339Nano), o.Fire.In(zone).Format(time.RFC3339Nano)
		switch {
		case c.JSON:
			err = writeJSON(out.Stdout, map[string]string{"occurrence_at": at, "fire_at": fire}, false)
		case o.At.Equal(o.Fire):
			_, err = fmt.Fprintln(out.Stdout, at)
		default:
			_, err = fmt.Fprintf(out.Stdout, "%s  %s\n", at, fire)
		}
		if err != nil {
			return err
		}
	}
	if len(list) == 0 && !c.JSON {
		_, err = fmt.Fprintln(out.Stdout, "it does not occur any more")
	}
	return err
}

type schedulesAdd struct {
	scheduleFlags
	Cron          nonEmpty          `env:"-" xor:"recurs" group:"Time" placeholder:"EXPRESSION" help:"A cron expression of five fields, or six with seconds in front, e.g. '30 2 * * MON-FRI'."`
	Every         *time.Duration    `env:"-" xor:"recurs" group:"Time" help:"An interval instead, e.g. 90s or 24h."`
	Zone          nonEmpty          `env:"-" default:"UTC" group:"Time" placeholder:"ZONE" help:"The zone of the expression, e.g. Europe/Berlin (default ${default})."`
	Start         jobTime           `env:"-" group:"Time" placeholder:"TIME" help:"The earliest occurrence, e.g. 2026-12-01T00:00:00Z or +1h. An interval is counted from there."`
	End           jobTime           `env:"-" group:"Time" placeholder:"TIME" help:"No occurrence from then on, e.g. 2026-12-31T00:00:00Z or +30d."`
	Jitter        time.Duration     `env:"-" default:"0s" group:"Time" help:"Fire each occurrence up to this much later."`
	Paused        bool              `env:"-" group:"Time" help:"Add it paused."`
	Overlap       string            `env:"-" enum:"allow,skip" default:"allow" group:"Time" help:"An occurrence while a job of an earlier one waits: allow or skip."`
	CatchUp       string            `env:"-" enum:"skip,once,all" default:"once" group:"Time" help:"Occurrences that an outage has made more than 10s late: skip, once (of those that are no jobs yet the latest) or all."`
	CatchUpWindow time.Duration     `env:"-" default:"24h" group:"Time" help:"With all: how far back."`
	MaxLateness   time.Duration     `env:"-" default:"0s" group:"Time" help:"A job that is later than this is not published; 0s: however late."`
	Topic         nonEmpty          `env:"-" required:"" group:"Message" placeholder:"TOPIC" help:"The MQTT topic."`
	Payload       string            `env:"-" group:"Message" help:"The message. {{fire_at}}, {{fire_at_unix}} and {{schedule}} are replaced here, in the topic and in headers."`
	QoS           *int              `env:"-" name:"qos" group:"Message" help:"The QoS of the message, 0 to 2; that of the deployment if not given."`
	Retain        bool              `env:"-" group:"Message" help:"The broker keeps the message for later subscribers."`
	ContentType   nonEmpty          `env:"-" group:"Message" placeholder:"TYPE" help:"The message's content type."`
	OrderingKey   nonEmpty          `env:"-" group:"Message" placeholder:"KEY" help:"Jobs with the same one are published one after the other, in the order of their times."`
	ResponseTopic nonEmpty          `env:"-" group:"Message" placeholder:"TOPIC" help:"The message's response topic."`
	Header        map[string]string `env:"-" mapsep:"none" group:"Message" placeholder:"NAME=VALUE" help:"A user property. Can be repeated."`
}

// Help is shown by `reactor schedules add --help`.
func (*schedulesAdd) Help() string {
	return `A schedule recurs by a cron expression or by an interval: give --cron or --every.

  reactor schedules add report --cron '30 2 * * MON-FRI' --zone Europe/Berlin --topic reports/daily
  reactor schedules add poll --every 90s --end +30d --topic poll --header a=1 --header b=2

Times may be distances from now on the database's clock, such as now, +90m or +7d.`
}

func (c *schedulesAdd) Run(ctx context.Context, out cli.Output) error {
	if err := c.check(); err != nil {
		return cli.Usage(err)
	}
	start, end, err := c.bounds(ctx)
	if err != nil {
		return err
	}
	var every time.Duration
	if c.Every != nil {
		every = *c.Every
	}
	s := pgsource.Schedule{
		Name: c.Schedule, Cron: string(c.Cron), Every: every, Zone: string(c.Zone), StartAt: start, EndAt: end, Jitter: c.Jitter, Paused: c.Paused, Overlap: c.Overlap,
		CatchUp: schedule.CatchUp(c.CatchUp), CatchUpWindow: c.CatchUpWindow, MaxLateness: c.MaxLateness,
		Message: pgsource.ScheduleMessage{Topic: string(c.Topic), Payload: c.Payload, QoS: c.QoS, Retain: c.Retain, ContentType: string(c.ContentType), ResponseTopic: string(c.ResponseTopic), Headers: c.Header, OrderingKey: string(c.OrderingKey)},
	}
	return c.done(out, "added", pgsource.AddSchedule(ctx, c.connString(), s, c.names()))
}

// bounds are the instants of --start and --end; zero: not given.
func (c *schedulesAdd) bounds(ctx context.Context) (start, end time.Time, err error) {
	var now driver.DBTime
	if c.Start.distance != nil || c.End.distance != nil {
		if now, err = pgsource.DatabaseTime(ctx, c.connString(), c.names()); err != nil {
			return start, end, err
		}
	}
	if at := c.Start.at(now); at != nil {
		start = at.Time()
	}
	if at := c.End.at(now); at != nil {
		end = at.Time()
	}
	if c.Start.given && c.End.given && !start.Before(end) {
		return start, end, cli.Usage(errors.New("--start must be before --end"))
	}
	return start, end, nil
}

// check says in terms of the flags what the table would refuse.
func (c *schedulesAdd) check() error {
	const day, year = 24 * time.Hour, 366 * 24 * time.Hour
	switch {
	case c.Cron == "" && c.Every == nil:
		return errors.New("say when it recurs: --cron or --every")
	case c.Every != nil && (*c.Every < time.Second || *c.Every > year || *c.Every%time.Second != 0):
		return fmt.Errorf("--every is %v, must be 1s to 8784h, in whole seconds", *c.Every)
	case c.Jitter < 0 || c.Jitter > day:
		return fmt.Errorf("--jitter is %v, must be 0s to 24h", c.Jitter)
	case c.CatchUpWindow < time.Second || c.CatchUpWindow > 31*day:
		return fmt.Errorf("--catch-up-window is %v, must be 1s to 744h", c.CatchUpWindow)
	case c.MaxLateness != 0 && (c.MaxLateness < time.Second || c.MaxLateness > year):
		return fmt.Errorf("--max-lateness is %v, must be 1s to 8784h, or 0s: however late", c.MaxLateness)
	case c.QoS != nil && (*c.QoS < 0 || *c.QoS > 2):
		return fmt.Errorf("--qos is %d, must be 0, 1 or 2", *c.QoS)
	case c.QoS != nil && *c.QoS == 0 && c.OrderingKey != "":
		return errors.New("--qos is 0, must be 1 or 2 with --ordering-key: nothing tells when a broker has a message of QoS 0")
	}
	return nil
}

type schedulesPause struct{ scheduleFlags }

func (c *schedulesPause) Run(ctx context.Context, out cli.Output) error {
	return c.done(out, "paused", pgsource.PauseSchedule(ctx, c.connString(), c.Schedule, c.names()))
}

type schedulesResume struct{ scheduleFlags }

func (c *schedulesResume) Run(ctx context.Context, out cli.Output) error {
	return c.done(out, "resumed", pgsource.ResumeSchedule(ctx, c.connString(), c.Schedule, c.names()))
}

type schedulesDelete struct{ scheduleFlags }

func (c *schedulesDelete) Run(ctx context.Context, out cli.Output) error {
	return c.done(out, "deleted", pgsource.DeleteSchedule(ctx, c.connString(), c.Schedule, c.names()))
}

type schedulesRun struct{ scheduleFlags }

func (c *schedulesRun) Run(ctx context.Context, out cli.Output) error {
	id, err := pgsource.RunSchedule(ctx, c.connString(), c.Schedule, c.names())
	switch {
	case err != nil:
		return err
	case c.JSON:
		return writeJSON(out.Stdout, map[string]any{"schedule": c.Schedule, "job_id": id}, false)
	}
	_, err = fmt.Fprintf(out.Stdout, "job %d of %s is due now\n", id, cli.Visible(c.Schedule))
	return err
}

type schedulesBackfill struct {
	scheduleFlags
	From jobTime `env:"-" required:"" placeholder:"TIME" help:"The beginning of the range, e.g. 2026-11-01T00:00:00Z or -7d."`
	To   jobTime `env:"-" required:"" placeholder:"TIME" help:"Its end, which is not included, e.g. -1d or now."`
	Yes  bool    `env:"-" help:"Do not ask before several jobs are made."`
}

// Help is shown by `reactor schedules backfill --help`.
func (*schedulesBackfill) Help() string {
	return `The jobs are due now, a microsecond apart, in the order of the occurrences. They are published at once and
beside each other: without an ordering key of the schedule they may arrive in another order. Placeholders
get the time of the occurrence. An occurrence of which there is a job in the table is not made again, so a
range can be backfilled twice.`
}

func (c *schedulesBackfill) Run(ctx context.Context, out cli.Output) error {
	now, err := pgsource.DatabaseTime(ctx, c.connString(), c.names())
	if err != nil {
		return err
	}
	from, to := c.From.at(now).Time(), c.To.at(now).Time()
	if !from.Before(to) {
		return cli.Usage(errors.New("--from must be before --to"))
	}
	if !c.Yes {
		jobs, err := pgsource.CountBackfill(ctx, c.connString(), c.Schedule, from, to, c.names())
		if err != nil {
			return err
		}
		if jobs > 1 {
			if err := confirm(ctx, out, fmt.Sprintf("make %s of %s that are due now", words.Jobs(int64(jobs)), cli.Visible(c.Schedule)), false); err != nil {
				return err
			}
		}
	}
	made, err := pgsource.Backfill(ctx, c.connString(), c.Schedule, from, to, c.names())
	switch {
	case err != nil:
		return err
	case c.JSON:
		return writeJSON(out.Stdout, map[string]any{"schedule": c.Schedule, "jobs": made}, false)
	}
	_, err = fmt.Fprintf(out.Stdout, "%d jobs of %s are due now\n", made, cli.Visible(c.Schedule))
	return err
}
