package reactor_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor"
)

// TestSchedulesWhileInstancesDie: 200 schedules tick each second while three instances are killed in turn.
// Each occurrence is made once, none is missing, and each is published once.
func TestSchedulesWhileInstancesDie(t *testing.T) {
	t.Parallel()
	const schedules, instances, kills = 200, 3, 6
	w := newWorld(t, "", "")
	all := make([]*testkit.Process, instances)
	for i := range all {
		all[i] = w.process(nil, "--name", fmt.Sprint("instance-", i))
	}
	w.exec("INSERT INTO reactor.schedules (name, cron, topic, payload, catch_up) SELECT 's' || n, '* * * * * *', $1 || '/' || n, '{{fire_at_unix}}', 'all' FROM generate_series(1, $2::integer) n", w.prefix, schedules)
	for i := range kills {
		// The next one dies while it is busy: 600 messages later.
		if err := w.subscriber.WaitDistinct(w.ctx, w.subscriber.Progress().Distinct+3*schedules); err != nil {
			t.Fatal(err)
		}
		all[i%instances].Kill(t)
		all[i%instances] = w.process(nil, "--name", fmt.Sprint("instance-", i+instances))
	}
	if err := w.subscriber.WaitDistinct(w.ctx, w.subscriber.Progress().Distinct+3*schedules); err != nil {
		t.Fatal(err)
	}
	w.exec("UPDATE reactor.schedules SET paused = true")
	w.settled()
	w.eventually("all are processed", "SELECT NOT EXISTS (SELECT FROM jobs WHERE NOT processed)")
	if n := w.count(`SELECT count(*) FROM (
		SELECT FROM jobs GROUP BY schedule_id
		HAVING count(*) <> count(DISTINCT occurrence_at) OR count(*) <> extract(epoch FROM max(occurrence_at) - min(occurrence_at)) + 1
		    OR min(occurrence_at) > (SELECT created_at FROM reactor.schedules WHERE id = schedule_id) + interval '1 second') AS wrong`); n != 0 {
		t.Errorf("%d schedules have occurrences twice or not at all", n)
	}
	if n := w.count("SELECT count(DISTINCT schedule_id) FROM jobs"); n != schedules {
		t.Errorf("%d of %d schedules have jobs", n, schedules)
	}
	expected, err := check.ExpectedFromDB(w.ctx, w.db, "true")
	if err != nil {
		t.Fatal(err)
	}
	report := w.judgeThese(expected)
	t.Logf("%d occurrences, the latest %v late, with %d kills", report.Expected, report.MaxLateness.Round(time.Millisecond), kills)
}

// TestSchedulesArePunctual: what schedules make is published at its time by every feed, also where nothing
// announces new jobs, and where overlap lets nobody make a job ahead.
func TestSchedulesArePunctual(t *testing.T) {
	overFeeds(t, func(t *testing.T, w *world) {
		w.process(nil, "--feed", w.feed.String(), "--loop-frequency", "100ms")
		w.exec("INSERT INTO reactor.schedules (name, cron, topic, payload, overlap) SELECT n, '* * * * * *', $1 || '/' || n, '{{fire_at}}', n FROM unnest('{allow,skip}'::text[]) n", w.prefix)
		if err := w.subscriber.WaitDistinct(w.ctx, 12); err != nil {
			t.Fatal(err)
		}
		w.exec("UPDATE reactor.schedules SET paused = true")
		w.settled()
		w.eventually("all are processed", "SELECT NOT EXISTS (SELECT FROM jobs WHERE NOT processed)")
		expected, err := check.ExpectedFromDB(w.ctx, w.db, "true")
		if err != nil {
			t.Fatal(err)
		}
		if report := w.judgeThese(expected); report.MaxLateness > 2*time.Second {
			t.Errorf("the latest occurrence is %v late", report.MaxLateness)
		}
		if n := w.count("SELECT count(*) FROM reactor.schedules WHERE overlap = 'skip' AND (SELECT count(*) FROM jobs WHERE schedule_id = schedules.id) >= 3"); n != 1 {
			t.Error("the one that must not overlap hardly occurs")
		}
	})
}

// TestSchedulesSurviveCrashesOfPostgres: the commit that makes jobs need not wait for the disk. Whatever
// of it a crash undoes, every published occurrence is in the table, and every occurrence is published once.
func TestSchedulesSurviveCrashesOfPostgres(t *testing.T) {
	t.Parallel()
	const schedules = 50
	// The log is written so rarely that only commits that wait for it bring anything to the disk.
	server := testkit.OwnPostgres(t, stack.PostgresConfig{Trust: true, Settings: map[string]string{"wal_writer_delay": "10s"}})
	w := newWorldOn(t, server)
	w.start(reactor.Config{})
	w.start(reactor.Config{})
	w.exec("INSERT INTO reactor.schedules (name, cron, topic, payload, catch_up) SELECT 's' || n, '* * * * * *', $1 || '/' || n, '{{fire_at_unix}}', 'all' FROM generate_series(1, $2::integer) n", w.prefix, schedules)
	for range 3 {
		if err := w.subscriber.WaitDistinct(w.ctx, w.subscriber.Progress().Distinct+4*schedules); err != nil {
			t.Fatal(err)
		}
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := server.Start(w.ctx); err != nil {
			t.Fatal(err)
		}
		w.db = w.connect()
	}
	if err := w.subscriber.WaitDistinct(w.ctx, w.subscriber.Progress().Distinct+2*schedules); err != nil {
		t.Fatal(err)
	}
	w.exec("UPDATE reactor.schedules SET paused = true")
	w.settled()
	w.eventually("all are processed", "SELECT NOT EXISTS (SELECT FROM jobs WHERE NOT processed)")
	if n := w.count(`SELECT count(*) FROM (
		SELECT FROM jobs GROUP BY schedule_id
		HAVING count(*) <> count(DISTINCT occurrence_at) OR count(*) <> extract(epoch FROM max(occurrence_at) - min(occurrence_at)) + 1) AS wrong`); n != 0 {
		t.Errorf("%d schedules have occurrences twice or not at all", n)
	}
	w.judge()
}

// TestSkipLeavesOutWhatIsLate: occurrences whose jobs had been made before an outage are not published
// after it, if their schedule skips what was missed. Those that are hardly late are, and so are those that
// somebody has moved, those of other schedules, and those that are tried again.
func TestSkipLeavesOutWhatIsLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	w.exec("INSERT INTO reactor.schedules (name, cron, topic, catch_up) SELECT n, '0 0 29 2 *', $1 || '/' || n, n FROM unnest('{skip,once,all}'::text[]) n", w.prefix)
	w.exec(`INSERT INTO jobs (topic, payload, fire_at, schedule_id, occurrence_at)
	        SELECT topic, late, now() - late::interval, id, now() - coalesce(occurred, late)::interval
	          FROM reactor.schedules, (VALUES ('15 s', NULL), ('1 day', NULL), ('2 s', NULL), ('20 s', '1 hour'), ('30 s', '10 s'), ('40 s', NULL)) AS job (late, occurred)`)
	w.exec("INSERT INTO reactor.retries (job_id, attempts, retry_at, code, reason) SELECT id, 1, now(), 135, 'refused' FROM jobs WHERE payload = '40 s'")
	w.process(nil)
	w.eventually("all are processed", "SELECT NOT EXISTS (SELECT FROM jobs WHERE NOT processed) AND NOT EXISTS (SELECT FROM reactor.in_flight)")
	const missed = "SELECT count(*) FROM reactor.failed_jobs f JOIN jobs ON id = job_id JOIN reactor.schedules s ON s.id = schedule_id WHERE state = 'missed' AND reason LIKE '%its schedule leaves out%' AND name = 'skip' AND jobs.payload IN ('15 s', '1 day')"
	if n, all := w.count(missed), w.count("SELECT count(*) FROM reactor.failed_jobs"); n != 2 || all != 2 {
		t.Errorf("%d jobs are missed because of their schedule, and %d in all have failed, want 2", n, all)
	}
	if err := w.subscriber.WaitDistinct(w.ctx, 16); err != nil {
		t.Fatal(err)
	}
	w.exec("SELECT reactor.retry(job_id) FROM reactor.failed_jobs")
	if err := w.subscriber.WaitDistinct(w.ctx, 18); err != nil {
		t.Fatal(err)
	}
	w.settled()
	if n := w.count("SELECT count(*) FROM reactor.failed_jobs"); n != 0 {
		t.Errorf("%d jobs have failed that were tried again", n)
	}
}
