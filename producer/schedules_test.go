package producer_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/producer"
)

// TestSchedules: each field arrives in its column; a schedule is replaced, paused, resumed, run and
// deleted by its name.
func TestSchedules(t *testing.T) {
	overDrivers(t, func(w *world, db producer.DB) {
		t := w.t
		one := func(what, sql string) {
			t.Helper()
			var n int
			if err := w.conn.QueryRow(w.ctx, "SELECT count(*) FROM reactor.schedules WHERE "+sql).Scan(&n); err != nil || n != 1 {
				t.Errorf("%s: %d schedules are as they should be, %v", what, n, err)
			}
		}
		full := producer.Recurring{
			Name: "n", Every: 90 * time.Second, Zone: "Europe/Vienna", StartAt: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), EndAt: time.Date(2101, 1, 1, 0, 0, 0, 0, time.UTC),
			Jitter: 1500 * time.Millisecond, Overlap: "skip", CatchUp: "all", CatchUpWindow: time.Hour, MaxLateness: time.Minute, Topic: "a/{{schedule}}", PayloadBytes: []byte{0},
			QoS: producer.AtLeastOnce, OrderingKey: "k", Retain: true, ContentType: "text/plain", ResponseTopic: "r", CorrelationData: []byte{1}, Headers: map[string]string{"a": "b"},
		}
		id, err := producer.UpsertSchedule(w.ctx, db, full)
		if err != nil {
			t.Fatal(err)
		}
		one("inserted", `name = 'n' AND cron IS NULL AND every = '90 seconds' AND zone = 'Europe/Vienna' AND start_at = '2100-01-01 00:00+00' AND end_at = '2101-01-01 00:00+00' AND jitter = '1.5 seconds'
			AND overlap = 'skip' AND catch_up = 'all' AND catch_up_window = '1 hour' AND max_lateness = '1 minute' AND topic = 'a/{{schedule}}' AND payload = '' AND payload_bytes = '\x00' AND qos = 1 AND ordering_key = 'k' AND retain
			AND content_type = 'text/plain' AND response_topic = 'r' AND correlation_data = '\x01' AND headers = '{"a": "b"}' AND NOT paused`)
		if err := producer.PauseSchedule(w.ctx, db, "n"); err != nil {
			t.Fatal(err)
		}
		one("paused", "paused")
		again, err := producer.UpsertSchedule(w.ctx, db, producer.Recurring{Name: "n", Cron: "0 8 * * *", Topic: "{{schedule}}", Payload: "p"})
		if err != nil || again != id {
			t.Errorf("replaced %d by %d, %v", id, again, err)
		}
		one("replaced", `cron = '0 8 * * *' AND every IS NULL AND zone = 'UTC' AND start_at IS NULL AND end_at IS NULL AND jitter = '0' AND overlap = 'allow' AND catch_up = 'once' AND catch_up_window = '1 day'
			AND max_lateness IS NULL AND topic = '{{schedule}}' AND payload = 'p' AND payload_bytes IS NULL AND qos IS NULL AND NOT retain AND content_type IS NULL AND response_topic IS NULL
			AND correlation_data IS NULL AND headers IS NULL AND ordering_key IS NULL AND paused`)
		if err := producer.ResumeSchedule(w.ctx, db, "n"); err != nil {
			t.Fatal(err)
		}
		one("resumed", "NOT paused")
		job, err := producer.RunSchedule(w.ctx, db, "n")
		if err != nil || w.count("topic = 'n' AND payload = 'p' AND schedule_id IS NOT NULL AND fire_at <= clock_timestamp()") != 1 {
			t.Errorf("run: job %d, %v", job, err)
		}
		if err := producer.DeleteSchedule(w.ctx, db, "n"); err != nil || w.count("true") != 0 {
			t.Errorf("after the deletion %d jobs are left, %v", w.count("true"), err)
		}
		_, run := producer.RunSchedule(w.ctx, db, "n")
		for what, err := range map[string]error{
			"pause": producer.PauseSchedule(w.ctx, db, "n"), "resume": producer.ResumeSchedule(w.ctx, db, "n"), "delete": producer.DeleteSchedule(w.ctx, db, "n"), "run": run,
		} {
			if !errors.Is(err, producer.ErrNoSchedule) {
				t.Errorf("%s of a schedule that is gone: %v", what, err)
			}
		}
		for column, bad := range map[string]producer.Recurring{
			"every":   {Name: "n", Every: time.Millisecond, Topic: "t"},
			"overlap": {Name: "n", Every: time.Minute, Topic: "t", Overlap: "perhaps"},
			"topic":   {Name: "n", Every: time.Minute, Topic: "#"},
			"name":    {Every: time.Minute, Topic: "t"},
			"":        {Name: "n", Topic: "t"}, // neither cron nor every
		} {
			_, err := producer.UpsertSchedule(w.ctx, db, bad)
			var rule *producer.RuleError
			if !errors.As(err, &rule) || rule.Column != column || !strings.Contains(rule.Rule, " must ") {
				t.Errorf("%q: %v", column, err)
			}
		}
	})
}
