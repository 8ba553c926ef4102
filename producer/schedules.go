package producer

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Recurring is a schedule: a message that is published again and again. Name, Topic and one of Cron and
// Every are required. The instances make its jobs.
type Recurring struct {
	// Name identifies the schedule: 1 to 255 bytes.
	Name string
	// Cron has five fields, or six with seconds in front, in the time zone Zone. Every counts from
	// StartAt or, if that is zero, from when the schedule was created: 1 second to 366 days, in whole
	// seconds.
	Cron  string
	Every time.Duration
	// Zone is a name of the IANA database. Defaults to UTC.
	Zone string
	// StartAt and EndAt bound the occurrences; EndAt is not one any more. Zero: no bound.
	StartAt, EndAt time.Time
	// Jitter fires each occurrence up to this much later.
	Jitter time.Duration
	// Overlap is what happens to an occurrence while a job of an earlier one waits: "allow" or "skip".
	// Defaults to allow.
	Overlap string
	// CatchUp is what happens to occurrences during which no instance ran: "skip", "once" (the latest)
	// or "all", those of CatchUpWindow. They default to once and 24 hours.
	CatchUp       string
	CatchUpWindow time.Duration
	// MaxLateness makes the jobs expire. Zero: they do not.
	MaxLateness time.Duration

	// The message, as in Job. In Topic, Payload and the values of Headers, {{fire_at}},
	// {{fire_at_unix}} and {{schedule}} are replaced.
	Topic                      string
	Payload                    string
	PayloadBytes               []byte
	QoS                        QoS
	Retain                     bool
	ContentType, ResponseTopic string
	CorrelationData            []byte
	Headers                    map[string]string
	OrderingKey                string
}

// ErrNoSchedule says that there is no schedule with a name.
var ErrNoSchedule = errors.New("there is no schedule with this name")

// scheduleColumns are those of reactor.schedules that jobs does not have, for RuleError.
var scheduleColumns = []string{"name", "cron", "every", "zone", "start_at", "end_at", "jitter", "overlap", "catch_up", "catch_up_window", "max_lateness"}

// UpsertSchedule inserts a schedule, or replaces the one with its name, and returns its id. Whether it is
// paused stays as it is. To replace one by the same changes nothing, so a program can do it
// whenever it starts. What the database cannot check, the fields of Cron and the name of Zone, the instances do:
// what is wrong is in the column problem of reactor.schedules, within seconds.
func UpsertSchedule(ctx context.Context, db DB, schedule Recurring) (id int64, err error) {
	s := &schedule
	message := Job{Topic: s.Topic, Payload: s.Payload, ContentType: s.ContentType, ResponseTopic: s.ResponseTopic, Headers: s.Headers, OrderingKey: s.OrderingKey}
	if err = message.check(); err == nil {
		err = checkText("name", s.Name)
	}
	if err == nil {
		err = checkInstant("start_at", s.StartAt)
	}
	if err == nil {
		err = checkInstant("end_at", s.EndAt)
	}
	if err == nil {
		err = db.row(ctx, `
			INSERT INTO reactor.schedules AS s (name, cron, every, zone, start_at, end_at, jitter, overlap, catch_up, catch_up_window, max_lateness,
			       topic, payload, payload_bytes, qos, retain, content_type, response_topic, correlation_data, headers, ordering_key)
			VALUES ($1::pg_catalog.text, $2::pg_catalog.text, $3::pg_catalog.text::pg_catalog.interval, coalesce($4::pg_catalog.text, 'UTC'::pg_catalog.text),
			       $5::pg_catalog.timestamptz, $6::pg_catalog.timestamptz, coalesce($7::pg_catalog.text::pg_catalog.interval, '0'::pg_catalog.interval),
			       coalesce($8::pg_catalog.text, 'allow'::pg_catalog.text), coalesce($9::pg_catalog.text, 'once'::pg_catalog.text),
			       coalesce($10::pg_catalog.text::pg_catalog.interval, '1 day'::pg_catalog.interval), $11::pg_catalog.text::pg_catalog.interval,
			       $12::pg_catalog.text, $13::pg_catalog.text, $14::pg_catalog.bytea, $15::pg_catalog.int4::pg_catalog.int2, $16::pg_catalog.bool, $17::pg_catalog.text,
			       $18::pg_catalog.text, $19::pg_catalog.bytea, $20::pg_catalog.text::pg_catalog.jsonb, $21::pg_catalog.text)
			ON CONFLICT (name) DO UPDATE SET cron = excluded.cron, every = excluded.every, zone = excluded.zone, start_at = excluded.start_at, end_at = excluded.end_at,
			       jitter = excluded.jitter, overlap = excluded.overlap, catch_up = excluded.catch_up, catch_up_window = excluded.catch_up_window, max_lateness = excluded.max_lateness,
			       topic = excluded.topic, payload = excluded.payload, payload_bytes = excluded.payload_bytes, qos = excluded.qos, retain = excluded.retain,
			       content_type = excluded.content_type, response_topic = excluded.response_topic, correlation_data = excluded.correlation_data, headers = excluded.headers, ordering_key = excluded.ordering_key
			RETURNING s.id`,
			[]any{
				s.Name, orNull(s.Cron), intervalText(s.Every), orNull(s.Zone), instant(s.StartAt), instant(s.EndAt), intervalText(s.Jitter),
				orNull(s.Overlap), orNull(s.CatchUp), intervalText(s.CatchUpWindow), intervalText(s.MaxLateness),
				s.Topic, s.Payload, bytesOrNull(s.PayloadBytes), s.QoS.value(), s.Retain, orNull(s.ContentType), orNull(s.ResponseTopic), bytesOrNull(s.CorrelationData), headersText(s.Headers), orNull(s.OrderingKey),
			}, &id)
	}
	if err != nil {
		return 0, explain("upsert schedule", err)
	}
	return id, nil
}

// PauseSchedule deletes the jobs of a schedule that were not claimed, and has no occurrences until
// ResumeSchedule. Those of the pause are not made up for. ErrNoSchedule: there is none with the name.
func PauseSchedule(ctx context.Context, db DB, name string) error {
	return db.oneSchedule(ctx, "pause schedule", "UPDATE reactor.schedules SET paused = true", name)
}

// ResumeSchedule ends a pause. ErrNoSchedule: there is none with the name.
func ResumeSchedule(ctx context.Context, db DB, name string) error {
	return db.oneSchedule(ctx, "resume schedule", "UPDATE reactor.schedules SET paused = false", name)
}

// DeleteSchedule deletes a schedule and its jobs that were not claimed. ErrNoSchedule: there is none with
// the name.
func DeleteSchedule(ctx context.Context, db DB, name string) error {
	return db.oneSchedule(ctx, "delete schedule", "DELETE FROM reactor.schedules", name)
}

func (db DB) oneSchedule(ctx context.Context, what, sql, name string) error {
	found := false
	err := checkText("name", name)
	if err == nil {
		err = db.rows(ctx, sql+" WHERE name OPERATOR(pg_catalog.=) $1::pg_catalog.text RETURNING id", []any{name}, func(scan func(...any) error) error {
			var id int64
			found = true
			return scan(&id)
		})
	}
	if err == nil && !found {
		err = ErrNoSchedule
	}
	if err != nil {
		return explain(what, err)
	}
	return nil
}

// RunSchedule publishes the message of a schedule once, at once, beside its occurrences and also if it is
// paused. It returns the id of the job. ErrNoSchedule: there is none with the name.
func RunSchedule(ctx context.Context, db DB, name string) (id int64, err error) {
	if err = checkText("name", name); err == nil {
		err = db.row(ctx, "SELECT reactor.run_schedule($1::pg_catalog.text)", []any{name}, &id)
	}
	if err != nil {
		return 0, explain("run schedule", err)
	}
	return id, nil
}

// intervalText is a duration as an interval, in microseconds; nil for NULL.
func intervalText(d time.Duration) any {
	if d == 0 {
		return nil
	}
	return fmt.Sprint(d.Microseconds(), " microseconds")
}
