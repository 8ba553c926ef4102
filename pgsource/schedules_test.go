package pgsource_test

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/schedule"
)

// made waits until instances have made jobs of a schedule up to a number of seconds from now.
func (b *bench) made(name string, seconds int) {
	b.t.Helper()
	b.eventually("jobs of "+name+" are made", "SELECT coalesce(max(occurrence_at) >= clock_timestamp() + $2::integer * interval '1 second', false) FROM jobs JOIN reactor.schedules s ON s.id = schedule_id WHERE name = $1", name, seconds)
}

// gapless checks that a schedule of each second has one job for each second between its first and its
// last one, and returns how many.
func (b *bench) gapless(name string) int {
	b.t.Helper()
	var n, distinct, seconds int
	if err := b.conn.QueryRow(b.ctx, `
		SELECT count(*), count(DISTINCT occurrence_at), coalesce(extract(epoch FROM max(occurrence_at) - min(occurrence_at))::integer + 1, 0)
		  FROM jobs JOIN reactor.schedules s ON s.id = schedule_id WHERE name = $1`, name).Scan(&n, &distinct, &seconds); err != nil {
		b.t.Fatal(err)
	}
	if n != distinct || n != seconds {
		b.t.Errorf("schedule %s has %d jobs of %d occurrences in %d seconds", name, n, distinct, seconds)
	}
	return n
}

// TestSchedule: the jobs have what the schedule says, with the placeholders filled in.
func TestSchedule(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.exec(`INSERT INTO reactor.schedules (name, cron, zone, topic, payload, headers, qos, retain, content_type, response_topic, correlation_data, ordering_key, max_lateness)
		VALUES ('daily "one"', '* * * * * *', 'Australia/Lord_Howe', 't/{{fire_at_unix}}', '{{schedule}} at {{fire_at}}, {{unknown}}', '{"at": "{{fire_at}}", "name": "{{schedule}}"}', 1, true, 'text/plain', 'answers', '\x01', 'k', '5 minutes')`)
	b.made(`daily "one"`, 5)
	if n := b.count(`SELECT count(*) FROM jobs, to_char(occurrence_at AT TIME ZONE 'Australia/Lord_Howe', 'YYYY-MM-DD"T"HH24:MI:SS+11:00') AS at
		WHERE topic = 't/' || extract(epoch FROM occurrence_at)::bigint AND fire_at = occurrence_at AND expires_at = fire_at + interval '5 minutes'
		  AND payload = 'daily "one" at ' || at || ', {{unknown}}' AND headers = jsonb_build_object('at', at, 'name', 'daily "one"')
		  AND (qos, retain, content_type, response_topic, correlation_data, ordering_key) = (1, true, 'text/plain', 'answers', '\x01'::bytea, 'k')`); n != b.count("SELECT count(*) FROM jobs") {
		t.Errorf("%d jobs are as the schedule says, of %d", n, b.count("SELECT count(*) FROM jobs"))
	}
	b.gapless(`daily "one"`)
	if n := b.count("SELECT count(*) FROM reactor.schedules WHERE next_at > last_at AND last_at = (SELECT max(occurrence_at) FROM jobs) AND problem IS NULL"); n != 1 {
		t.Error("the schedule does not say how far it is")
	}
}

// TestPlaceholdersByZone: the offset is that of the occurrence.
func TestPlaceholdersByZone(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	for _, c := range []struct{ at, zone, want string }{
		{"2026-03-29 01:00:00+00", "Europe/Berlin", "2026-03-29T03:00:00+02:00 1774746000"},
		{"2026-03-29 00:59:59+00", "Europe/Berlin", "2026-03-29T01:59:59+01:00 1774745999"},
		{"2026-10-25 00:30:00+00", "Europe/Berlin", "2026-10-25T02:30:00+02:00 1792888200"},
		{"2026-10-25 01:30:00+00", "Europe/Berlin", "2026-10-25T02:30:00+01:00 1792891800"},
		{"2026-04-04 15:00:00+00", "Australia/Lord_Howe", "2026-04-05T01:30:00+10:30 1775314800"},
		{"2026-11-01 05:30:00.25+00", "America/New_York", "2026-11-01T01:30:00.25-04:00 1793511000"},
		{"2026-11-01 05:30:00+00", "America/St_Johns", "2026-11-01T02:00:00-03:30 1793511000"},
		{"2026-11-01 05:30:00+00", "UTC", "2026-11-01T05:30:00Z 1793511000"},
	} {
		var got string
		if err := b.conn.QueryRow(b.ctx, "SELECT reactor.fill_in('{{fire_at}} {{fire_at_unix}}', 's', $1::text::timestamptz, $2)", c.at, c.zone).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != c.want {
			t.Errorf("%s in %s is %q, want %q", c.at, c.zone, got, c.want)
		}
	}
}

// TestOccurrencesAreMadeOnce: several instances make occurrences of many schedules at once, and their
// transactions are broken off again and again. Each occurrence is made once, and none is missing. It is
// not parallel, as it keeps the machine busy.
func TestOccurrencesAreMadeOnce(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	const schedules = 150 // more than a transaction takes
	b.exec("INSERT INTO reactor.schedules (name, cron, topic, catch_up) SELECT 's' || n, '* * * * * *', 't', 'all' FROM generate_series(1, $1) n", schedules)
	var wg sync.WaitGroup
	var failures atomic.Int64
	stop := make(chan struct{})
	for range 3 {
		s := open(t, b.ctx, pgsource.Config{DatabaseURL: b.url})
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					// Broken off or not, the next one begins where the commit has left it.
					if err := s.MakeOccurrences(b.ctx); err != nil {
						failures.Add(1)
					}
				}
			}
		})
	}
	breaker := connect(t, b.ctx, b.url)
	end := sync.OnceFunc(func() { close(stop); wg.Wait() })
	t.Cleanup(end) // before the connections are closed, also if the wait below fails
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				// Only while it works on jobs or schedules, and only every other transaction: one that was
				// slow, on a busy machine, would not get through at all.
				if _, err := breaker.Exec(b.ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle' AND application_name LIKE 'reactor-%' AND (query LIKE '%make_jobs%' OR query LIKE 'UPDATE reactor.schedules%' OR query LIKE '%commit%') AND hashtext(pid::text || xact_start::text) % 2 = 0 AND random() < 0.3"); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	b.eventually("all are made 25 seconds ahead", "SELECT bool_and(decided_until > created_at + interval '25 seconds') FROM reactor.schedules")
	end()
	if failures.Load() == 0 {
		t.Error("no transaction was broken off")
	}
	for i := range schedules {
		if n := b.gapless(fmt.Sprint("s", i+1)); n < 25 {
			t.Errorf("s%d has %d jobs, want 25 at least", i+1, n)
		}
	}
	if n := b.count("SELECT count(*) FROM jobs JOIN reactor.schedules s ON s.id = schedule_id WHERE occurrence_at < created_at"); n != 0 {
		t.Errorf("%d jobs are from before their schedule", n)
	}
}

// TestChangedMessage: jobs that were not claimed get another message, at once and in the same
// transaction; a claimed one stays.
func TestChangedMessage(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.exec("INSERT INTO reactor.schedules (name, cron, topic, payload) VALUES ('s', '* * * * * *', 't', 'old {{fire_at_unix}}')")
	b.made("s", 5)
	first := b.count("SELECT min(id) FROM jobs")
	before := b.gapless("s")
	b.claim([]int64{int64(first)})
	if n := b.count("SELECT count(*) FROM jobs WHERE processed"); n != 1 {
		t.Fatalf("%d jobs are claimed, want 1", n)
	}
	b.exec("BEGIN; UPDATE reactor.schedules SET payload = 'new {{fire_at_unix}}', max_lateness = '1 minute'")
	if n := b.count("SELECT count(*) FROM jobs WHERE payload = 'new ' || extract(epoch FROM occurrence_at)::bigint AND expires_at = fire_at + interval '1 minute' AND NOT processed"); n != before-1 {
		t.Errorf("%d jobs have the new message, of %d", n, before)
	}
	b.exec("ROLLBACK")
	if n := b.count("SELECT count(*) FROM jobs WHERE payload LIKE 'new%'"); n != 0 {
		t.Errorf("%d jobs have the new message after a rollback", n)
	}
	b.exec("UPDATE reactor.schedules SET payload = 'new {{fire_at_unix}}'")
	b.made("s", 15)
	b.gapless("s")
	if n := b.count("SELECT count(*) FROM jobs WHERE payload LIKE 'old%'"); n != 1 {
		t.Errorf("%d jobs have the old message, want the claimed one", n)
	}
}

// TestChangedTimes: other times begin at once. An occurrence that was claimed is not made again, although
// the new times have it as well.
func TestChangedTimes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.exec("INSERT INTO reactor.schedules (name, cron, topic) VALUES ('s', '* * * * * *', 't')")
	b.made("s", 8)
	// Claims go ahead of the time here, by seconds: further than a real one.
	ahead := b.count("SELECT id FROM jobs WHERE occurrence_at > clock_timestamp() + interval '3 seconds' ORDER BY occurrence_at LIMIT 1")
	req := b.request([]int64{int64(ahead)})
	req.Within = time.Minute
	if batch, err := b.Claim(b.ctx, req); err != nil || len(batch.Jobs) != 1 {
		t.Fatalf("claimed %d jobs: %v", len(batch.Jobs), err)
	}
	b.exec("UPDATE reactor.schedules SET cron = '*/2 * * * * *'")
	if n := b.count("SELECT count(*) FROM jobs WHERE NOT processed"); n != 0 {
		t.Errorf("%d jobs of the old times are left", n)
	}
	b.made("s", 8)
	if n := b.count("SELECT count(*) - count(DISTINCT occurrence_at) FROM jobs"); n != 0 {
		t.Errorf("%d occurrences are made twice", n)
	}
	if n := b.count("SELECT count(*) FROM jobs WHERE NOT processed AND (extract(second FROM occurrence_at)::integer % 2 <> 0 OR occurrence_at <= (SELECT occurrence_at FROM jobs WHERE processed))"); n != 0 {
		t.Errorf("%d jobs are not of the new times", n)
	}
}

// TestChangedJitter: an occurrence that waits for its jitter is not lost by a change of the jitter.
func TestChangedJitter(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.exec("INSERT INTO reactor.schedules (name, every, start_at, jitter, topic) VALUES ('s', '1 day', now(), '1 day', 't')")
	b.eventually("it is made", "SELECT count(*) = 1 FROM jobs")
	b.exec("UPDATE reactor.schedules SET jitter = '12 hours'")
	b.eventually("it is made again", "SELECT count(*) = 1 FROM jobs WHERE NOT processed AND occurrence_at = (SELECT start_at FROM reactor.schedules) AND fire_at BETWEEN occurrence_at AND occurrence_at + interval '12 hours'")
}

// TestPauseAndDelete: unclaimed jobs go in the same transaction, claimed ones stay, and nothing is made up
// for.
func TestPauseAndDelete(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.exec("INSERT INTO reactor.schedules (name, cron, topic, catch_up) VALUES ('s', '* * * * * *', 't', 'all'), ('other', '* * * * * *', 't', 'all')")
	b.made("s", 5)
	b.made("other", 5)
	claimed := b.claim([]int64{int64(b.count("SELECT min(jobs.id) FROM jobs JOIN reactor.schedules s ON s.id = schedule_id WHERE name = 's'"))})
	b.exec("UPDATE reactor.schedules SET paused = true WHERE name = 's'")
	if n := b.count("SELECT count(*) FROM jobs JOIN reactor.schedules s ON s.id = schedule_id WHERE name = 's'"); n != len(claimed.Jobs) {
		t.Errorf("%d jobs are left after the pause, %d were claimed", n, len(claimed.Jobs))
	}
	b.made("other", 13) // somebody has looked at the schedules since
	b.gapless("other")
	b.exec("UPDATE reactor.schedules SET paused = false WHERE name = 's'")
	resumed := b.now()
	b.made("s", 5)
	if n := b.count("SELECT count(*) FROM jobs JOIN reactor.schedules s ON s.id = schedule_id WHERE name = 's' AND NOT processed AND occurrence_at < $1::timestamptz - interval '1 second'", resumed.Time()); n != 0 {
		t.Errorf("%d occurrences of the pause are made up for", n)
	}
	b.exec("DELETE FROM reactor.schedules WHERE name = 's'; TRUNCATE reactor.schedules")
	if n := b.count("SELECT count(*) FROM jobs WHERE NOT processed"); n != 0 {
		t.Errorf("%d jobs are left of schedules that were deleted", n)
	}
}

// TestReturningJobsFollow: a job that was claimed, and is about to be given back, follows the schedule.
func TestReturningJobsFollow(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.exec("INSERT INTO reactor.schedules (name, every, start_at, topic) VALUES ('s', '1 day', now(), 't')")
	b.eventually("it is made", "SELECT count(*) = 1 FROM jobs")
	batch := b.claim([]int64{int64(b.count("SELECT id FROM jobs"))})
	// The row is locked while its note is written, so it stays on its way back.
	tx, err := connect(t, b.ctx, b.url).Begin(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(b.ctx, "SELECT FROM jobs FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	b.unsent(batch)
	if _, err := tx.Exec(b.ctx, "UPDATE reactor.schedules SET topic = 'new'"); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(b.ctx); err != nil {
		t.Fatal(err)
	}
	b.eventually("it is back, with the new topic", "SELECT count(*) = 1 FROM jobs WHERE NOT processed AND topic = 'new'")
}

// TestChangesRaceWithInstances: schedules are changed, paused and resumed while instances make and claim
// their jobs. No occurrence is there twice, and at the end all jobs are of the last change.
func TestChangesRaceWithInstances(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.exec("INSERT INTO reactor.schedules (name, cron, topic) SELECT 's' || n, '* * * * * *', 't' FROM generate_series(1, 20) n")
	b.made("s20", 1)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for i := range 2 {
		conn := connect(t, b.ctx, b.url)
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				change := [...]string{"topic = 't/' || $1::integer", "cron = CASE $1::integer % 2 WHEN 0 THEN '*/2 * * * * *' ELSE '* * * * * *' END", "paused = $1::integer % 3 = 0"}[n%3]
				if _, err := conn.Exec(b.ctx, "UPDATE reactor.schedules SET "+change+" WHERE name = 's' || (1 + $1::integer % 10 * 2 + $2::integer)", n, i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 100 {
		if err := b.MakeOccurrences(b.ctx); err != nil {
			t.Fatal(err)
		}
		rows, err := b.conn.Query(b.ctx, "SELECT id FROM jobs WHERE NOT processed AND fire_at < clock_timestamp() + interval '1 second'")
		if err != nil {
			t.Fatal(err)
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			t.Fatal(err)
		}
		for len(ids) > 0 {
			some := ids[:min(len(ids), 100)]
			b.published(b.claim(some))
			ids = ids[len(some):]
		}
	}
	close(stop)
	wg.Wait()
	b.exec("UPDATE reactor.schedules SET topic = 'last', cron = '* * * * * *', paused = false")
	b.made("s7", 5)
	if n := b.count("SELECT count(*) - count(DISTINCT (schedule_id, occurrence_at)) FROM jobs"); n != 0 {
		t.Errorf("%d occurrences are there twice", n)
	}
	if n := b.count("SELECT count(*) FROM jobs WHERE NOT processed AND topic <> 'last'"); n != 0 {
		t.Errorf("%d unclaimed jobs are not of the last change", n)
	}
	if n := b.count("SELECT count(*) FROM jobs WHERE processed"); n < 20 {
		t.Errorf("%d jobs were claimed meanwhile, want many", n)
	}
}

// TestWholeRowsWrittenBack: a program that writes back a whole row, with a state that is old by now,
// changes nothing of it.
func TestWholeRowsWrittenBack(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.exec("INSERT INTO reactor.schedules (name, cron, topic) VALUES ('s', '* * * * * *', 't')")
	b.exec("CREATE TABLE copy AS SELECT * FROM reactor.schedules")
	b.made("s", 5)
	b.exec(`UPDATE reactor.schedules s SET topic = 'new', problem = c.problem, last_at = c.last_at, next_at = c.next_at, decided_until = c.decided_until, look_at = c.look_at, step = c.step,
		overlapped = c.overlapped, created_at = c.created_at FROM copy c`)
	b.made("s", 15)
	b.gapless("s")
}

// TestCatchUp: after an outage of an hour.
func TestCatchUp(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	// Each minute, half a minute ago for the last time: whenever the test runs, no occurrence is about now.
	var last time.Time
	if err := b.conn.QueryRow(b.ctx, "SELECT date_trunc('second', now() - interval '30 seconds')").Scan(&last); err != nil {
		t.Fatal(err)
	}
	b.exec(`INSERT INTO reactor.schedules (name, cron, topic, catch_up, catch_up_window, max_lateness)
		SELECT name, CASE name WHEN 'second' THEN '*' ELSE $1::text END || ' * * * * *', 't', catch_up, past::interval, late::interval FROM (VALUES
		('skip', 'skip', '1 day', NULL), ('once', 'once', '1 day', NULL), ('all', 'all', '1 day', NULL),
		('window', 'all', '10 minutes', NULL), ('late', 'all', '1 day', '20 minutes'), ('second', 'all', '1 day', NULL)) AS s (name, catch_up, past, late)`, strconv.Itoa(last.Second()))
	b.exec("UPDATE reactor.schedules SET decided_until = $1::timestamptz - interval '1 hour', step = step + 1", last)
	b.start(b.url)
	b.eventually("all are made", "SELECT bool_and(decided_until > now() - interval '2 minutes') AND max(look_at) > now() AND min(look_at) > now() FROM reactor.schedules")
	missed := func(name string) int {
		return b.count("SELECT count(*) FROM jobs JOIN reactor.schedules s ON s.id = schedule_id WHERE name = $1 AND occurrence_at < now() - interval '15 seconds'", name)
	}
	// The limits leave room for the time that the test takes.
	for name, want := range map[string][2]int{"skip": {0, 0}, "once": {1, 1}, "all": {60, 61}, "window": {8, 10}, "late": {18, 20}, "second": {3580, 3700}} {
		if n := missed(name); n < want[0] || n > want[1] {
			t.Errorf("%s: %d missed occurrences are made up for, want %d to %d", name, n, want[0], want[1])
		}
	}
	b.gapless("second")
}

// TestOverlap: an occurrence is left out while the job of an earlier one is not claimed, and counted.
func TestOverlap(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.exec("INSERT INTO reactor.schedules (name, cron, topic, overlap) VALUES ('s', '* * * * * *', 't', 'skip')")
	b.eventually("some are left out", "SELECT overlapped >= 2 FROM reactor.schedules")
	if n := b.count("SELECT count(*) FROM jobs"); n != 1 {
		t.Errorf("%d jobs, want one that nobody claims", n)
	}
	b.claim([]int64{int64(b.count("SELECT id FROM jobs"))})
	b.eventually("the next one is made", "SELECT count(*) = 2 FROM jobs")
	if n := b.count("SELECT count(*) FROM jobs WHERE NOT processed"); n != 1 {
		t.Errorf("%d jobs wait, want 1", n)
	}
}

// TestProblems: what is wrong with a schedule is in its row, and harms no other.
func TestProblems(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.exec(`CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this topic'; END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON jobs FOR EACH ROW WHEN (new.topic = 'refused') EXECUTE FUNCTION public.refuse();
		INSERT INTO reactor.schedules (name, cron, zone, topic) VALUES
		('cron', 'every day', 'UTC', 't'), ('zone', '* * * * *', 'Mars/Olympus', 't'), ('never', '0 0 30 2 *', 'UTC', 't'),
		('refused', '* * * * * *', 'UTC', 'refused'), ('long', '* * * * * *', 'UTC', repeat('x', 65520) || '{{fire_at}}'), ('good', '* * * * * *', 'UTC', 't')`)
	b.made("good", 5)
	b.eventually("the problems are reported", `SELECT count(*) = 5 FROM reactor.schedules WHERE CASE name WHEN 'cron' THEN problem LIKE '%every day%invalid%' WHEN 'zone' THEN problem LIKE '%Mars/Olympus%not known%'
		WHEN 'never' THEN problem LIKE '%never happens%' WHEN 'refused' THEN problem LIKE '%not this topic%' WHEN 'long' THEN problem LIKE '%topic must be 1 to 65535%' END`)
	b.exec("DROP TRIGGER refuse ON jobs; UPDATE reactor.schedules SET cron = '* * * * * *', zone = 'Europe/Berlin', topic = 'fine/' || name")
	for _, name := range []string{"cron", "zone", "never", "refused", "long", "good"} {
		b.made(name, 5)
		b.gapless(name)
	}
	if n := b.count("SELECT count(*) FROM reactor.schedules WHERE problem IS NOT NULL"); n != 0 {
		t.Errorf("%d problems are left", n)
	}
}

// TestSchedulesThatAreRefused: the name of the constraint says why.
func TestSchedulesThatAreRefused(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	for values, want := range map[string]string{
		"('s', NULL, NULL, 't')":         "either cron or every",
		"('s', '* * * * *', '1 s', 't')": "either cron or every",
		"('', '* * * * *', NULL, 't')":   "name must be",
		"('s', NULL, '1 month', 't')":    "every must be 1 second to 366 days",
		"('s', NULL, '1.5 s', 't')":      "every must be",
		"('s', NULL, '0 s', 't')":        "every must be",
		"('s', NULL, '1 h', 'a/#')":      "wildcards",
		"('s', NULL, '1 h', '')":         "topic must be 1 to",
	} {
		_, err := b.conn.Exec(b.ctx, "INSERT INTO reactor.schedules (name, cron, every, topic) VALUES "+values)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", values, err, want)
		}
	}
	for change, want := range map[string]string{
		"jitter = '2 days'": "jitter must be", "jitter = '-1 s'": "jitter must be", "overlap = 'queue'": "overlap must be", "catch_up = 'never'": "catch_up must be",
		"catch_up_window = '1 year'": "catch_up_window must be", "max_lateness = '0'": "max_lateness must be", "start_at = 'infinity'": "start_at must be before",
		"start_at = '2030-01-02', end_at = '2030-01-01'": "start_at must be before", "qos = 3": "qos must be", "headers = '[]'": "headers must be", "payload_bytes = '', payload = 'x'": "exclude each other",
		"zone = ''": "zone must be",
	} {
		b.exec("DELETE FROM reactor.schedules; INSERT INTO reactor.schedules (name, every, topic) VALUES ('s', '1 h', 't')")
		_, err := b.conn.Exec(b.ctx, "UPDATE reactor.schedules SET "+change)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", change, err, want)
		}
	}
}

// TestScheduleFunctions: add, list, next, run, backfill, pause, resume, delete.
func TestScheduleFunctions(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	qos := 1
	want := pgsource.Schedule{
		Name: "report", Cron: "30 2 * * *", Zone: "Europe/Berlin", Jitter: time.Minute, CatchUp: schedule.CatchUpAll, CatchUpWindow: time.Hour, MaxLateness: time.Minute, Overlap: "skip",
		Message: pgsource.ScheduleMessage{Topic: "t", Payload: "{{fire_at}}", QoS: &qos, Headers: map[string]string{"a": "b"}},
	}
	if err := pgsource.AddSchedule(b.ctx, b.url, want); err != nil {
		t.Fatal(err)
	}
	got, err := pgsource.FindSchedule(b.ctx, b.url, "report")
	if err != nil {
		t.Fatal(err)
	}
	got.CreatedAt = time.Time{}
	want.State = pgsource.ScheduleActive
	if fmt.Sprint(*got.Message.QoS) != "1" {
		t.Errorf("QoS %v", got.Message.QoS)
	}
	got.Message.QoS = want.Message.QoS
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("found\n%+v, want\n%+v", got, want)
	}
	for _, c := range []struct {
		bad  pgsource.Schedule
		want string
	}{
		{want, "already"},
		{pgsource.Schedule{Name: "x", Cron: "nonsense", Message: want.Message}, "invalid"},
		{pgsource.Schedule{Name: "x", Message: want.Message}, "either cron or every"},
		{pgsource.Schedule{Name: "x", Every: time.Hour}, "topic must be"},
	} {
		if err := pgsource.AddSchedule(b.ctx, b.url, c.bad); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v, want a line with %q", err, c.want)
		}
	}
	if list, err := pgsource.ListSchedules(b.ctx, b.url); err != nil || len(list) != 1 {
		t.Errorf("listed %d: %v", len(list), err)
	}
	next, zone, err := pgsource.NextOccurrences(b.ctx, b.url, "report", 3)
	if err != nil || len(next) != 3 || zone.String() != "Europe/Berlin" {
		t.Fatalf("next: %v in %v, %v", next, zone, err)
	}
	for i, o := range next {
		if jitter := o.Fire.Sub(o.At); jitter < 0 || jitter >= time.Minute || i > 0 && !o.At.After(next[i-1].At) {
			t.Errorf("next: %v", next)
		}
	}
	id, err := pgsource.RunSchedule(b.ctx, b.url, "report")
	if err != nil || b.count("SELECT count(*) FROM jobs WHERE id = $1 AND occurrence_at IS NULL AND fire_at <= now() AND payload <> ''", id) != 1 {
		t.Errorf("run: job %d, %v", id, err)
	}
	// Five days, one of which has been made; and again.
	midnight := time.Now().UTC().Truncate(24 * time.Hour)
	from, to := midnight.Add(-6*24*time.Hour), midnight.Add(-24*time.Hour)
	b.exec("UPDATE reactor.schedules SET decided_until = $1, step = step + 1", midnight)
	b.exec("INSERT INTO jobs (topic, fire_at, schedule_id, occurrence_at, processed) SELECT 't', now(), id, ($1::date + interval '2 days 2 hours 30 minutes') AT TIME ZONE 'Europe/Berlin', true FROM reactor.schedules", from)
	for _, want := range []int{4, 0} {
		if made, err := pgsource.Backfill(b.ctx, b.url, "report", from, to); err != nil || made != want {
			t.Errorf("backfilled %d: %v, want %d", made, err, want)
		}
	}
	if n := b.count("SELECT count(DISTINCT payload) FROM jobs WHERE payload LIKE '%T02:30:00+0%' AND fire_at BETWEEN now() - interval '1 minute' AND now() AND payload LIKE to_char(occurrence_at AT TIME ZONE 'Europe/Berlin', 'YYYY-MM-DD') || '%'"); n != 4 {
		t.Errorf("%d of the backfilled jobs are as they should be", n)
	}
	if _, err := pgsource.Backfill(b.ctx, b.url, "report", from, midnight.Add(1000*time.Hour)); err == nil || !strings.Contains(err.Error(), "in the past") {
		t.Errorf("backfilled the future: %v", err)
	}
	b.exec("UPDATE reactor.schedules SET decided_until = $1, step = step + 1", from)
	if _, err := pgsource.Backfill(b.ctx, b.url, "report", from, to); err == nil || !strings.Contains(err.Error(), "not decided") {
		t.Errorf("backfilled what instances will make: %v", err)
	}
	for _, change := range []func() error{
		func() error { return pgsource.PauseSchedule(b.ctx, b.url, "report") },
		func() error { return pgsource.ResumeSchedule(b.ctx, b.url, "report") },
		func() error { return pgsource.DeleteSchedule(b.ctx, b.url, "report") },
	} {
		if err := change(); err != nil {
			t.Error(err)
		}
	}
	if n := b.count("SELECT count(*) FROM jobs WHERE NOT processed"); n != 0 {
		t.Errorf("%d jobs are left of the deleted schedule", n)
	}
	_, missing := pgsource.RunSchedule(b.ctx, b.url, "report")
	for _, err := range []error{missing, pgsource.PauseSchedule(b.ctx, b.url, "report"), pgsource.DeleteSchedule(b.ctx, b.url, "report")} {
		if !errors.Is(err, pgsource.ErrNoSchedule) {
			t.Errorf("a schedule that is not there: %v", err)
		}
	}
}

// TestSchedulesInAHostileDatabase: with functions and operators of somebody else in the search path of
// everybody, and jobs in another schema.
func TestSchedulesInAHostileDatabase(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	b.exec("DROP TABLE jobs; DROP SCHEMA reactor CASCADE; CREATE SCHEMA app; CREATE SCHEMA bad")
	b.migrateUp(with(t, b.url, "search_path", "app"))
	b.exec(`CREATE FUNCTION bad.replace(text, text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'planted'; END $$;
		CREATE FUNCTION bad.greatest_time(timestamptz, timestamptz) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'planted'; END $$;
		CREATE OPERATOR bad.< (FUNCTION = bad.greatest_time, LEFTARG = timestamptz, RIGHTARG = timestamptz);
		CREATE FUNCTION bad.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE 'planted'; END $$;
		CREATE TABLE bad.jobs (id bigint);
		DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = bad, pg_catalog', current_database()); END $$`)
	b.conn = connect(t, b.ctx, b.url)
	b.start(b.url)
	b.exec("INSERT INTO reactor.schedules (name, cron, topic, payload) VALUES ('s', '* * * * * *', 't', '{{fire_at}}')")
	b.eventually("jobs are made", "SELECT count(*) > 5 FROM app.jobs")
	b.exec("UPDATE reactor.schedules SET payload = 'new {{fire_at}}'; UPDATE reactor.schedules SET cron = '*/2 * * * * *'")
	b.eventually("jobs are made again", "SELECT count(*) > 5 FROM app.jobs")
	if _, err := pgsource.RunSchedule(b.ctx, b.url, "s"); err != nil {
		t.Error(err)
	}
	b.exec("DELETE FROM reactor.schedules")
	if n := b.count("SELECT count(*) FROM app.jobs WHERE NOT processed"); n != 0 {
		t.Errorf("%d jobs are left", n)
	}
}

// TestSchedulesNeedRights: an instance whose role may not insert jobs says what to grant, and another one
// makes them. The first does once it may.
func TestSchedulesNeedRights(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	role, url := b.role("")
	b.grant(role)
	log := &said{changed: make(chan struct{}, 1)}
	s, err := pgsource.New(pgsource.Config{DatabaseURL: url, Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(b.ctx); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b.exec("INSERT INTO reactor.schedules (name, cron, topic, catch_up) VALUES ('s', '* * * * * *', 't', 'all')")
	b.member, b.lease = b.join(s)
	for !strings.Contains(log.text(), "run GRANT INSERT ON public.jobs TO "+role) {
		select {
		case <-log.changed:
		case <-b.ctx.Done():
			t.Fatalf("it does not say what to grant:\n%s", log.text())
		}
	}
	if n := b.count("SELECT count(*) FROM jobs"); n != 0 {
		t.Errorf("%d jobs were made without the right", n)
	}
	b.exec("GRANT INSERT ON jobs TO " + role)
	b.made("s", 5)
	b.gapless("s")
}

// said is a log that can be awaited.
type said struct {
	mu      sync.Mutex
	all     strings.Builder
	changed chan struct{} // one slot
}

func (l *said) Write(line []byte) (int, error) {
	l.mu.Lock()
	l.all.Write(line)
	l.mu.Unlock()
	select {
	case l.changed <- struct{}{}:
	default:
	}
	return len(line), nil
}

func (l *said) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

// TestSchedulesBehindAPooler: in transaction mode, where each transaction may have another session.
func TestSchedulesBehindAPooler(t *testing.T) {
	t.Parallel()
	b, pooler := pooled(t, stack.PgBouncerConfig{PoolSize: 4})
	b.migrateUp(b.url)
	b.exec("INSERT INTO reactor.schedules (name, cron, topic, overlap) VALUES ('s', '* * * * * *', 't', 'allow'), ('alone', '* * * * * *', 't', 'skip')")
	b.start(pooler.URL())
	b.made("s", 8)
	b.gapless("s")
	b.eventually("one waits alone", "SELECT overlapped > 0 FROM reactor.schedules WHERE name = 'alone'")
	if next, _, err := pgsource.NextOccurrences(b.ctx, pooler.URL(), "s", 3); err != nil || len(next) != 3 {
		t.Errorf("the next are %v, %v", next, err)
	}
	if err := pgsource.PauseSchedule(b.ctx, pooler.URL(), "s"); err != nil {
		t.Error(err)
	}
	if n := b.count("SELECT count(*) FROM jobs JOIN reactor.schedules s ON s.id = schedule_id WHERE name = 's' AND NOT processed"); n != 0 {
		t.Errorf("%d jobs are left after the pause", n)
	}
}

// TestSchedulesWithPartitions: occurrences are made, changed and deleted in whatever partition they are.
func TestSchedulesWithPartitions(t *testing.T) {
	t.Parallel()
	b := partitioned(t)
	b.start(b.url)
	b.exec("INSERT INTO reactor.schedules (name, cron, topic, overlap) VALUES ('s', '* * * * * *', 't', 'allow'), ('alone', '* * * * * *', 't', 'skip')")
	b.made("s", 5)
	b.gapless("s")
	b.eventually("one waits alone", "SELECT overlapped > 0 FROM reactor.schedules WHERE name = 'alone'")
	// Moved to another partition, it is an occurrence of its schedule as before.
	b.exec("UPDATE jobs SET fire_at = '2101-01-01' WHERE occurrence_at = (SELECT max(occurrence_at) FROM jobs)")
	b.exec("UPDATE reactor.schedules SET topic = 'new'")
	if n := b.count("SELECT count(*) FROM jobs WHERE NOT processed AND topic <> 'new'"); n != 0 {
		t.Errorf("%d jobs have the old topic", n)
	}
	b.made("s", 15)
	b.gapless("s")
	b.exec("DELETE FROM reactor.schedules")
	if n := b.count("SELECT count(*) FROM jobs WHERE NOT processed"); n != 0 {
		t.Errorf("%d jobs are left", n)
	}
}

// TestSchedulesByIndex: what is done each second, and by each change, reads no whole table.
func TestSchedulesByIndex(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	b.exec(`INSERT INTO reactor.schedules (name, cron, topic) SELECT 's' || n, '* * * * *', 't' FROM generate_series(1, 5000) n;
		UPDATE reactor.schedules SET look_at = 'infinity', step = step + 1;
		INSERT INTO jobs (topic, fire_at, processed, schedule_id, occurrence_at) SELECT 't', now(), n % 100 <> 0, n % 5000 + 1, now() - n * interval '1 second' FROM generate_series(1, 50000) n;
		INSERT INTO jobs (topic, fire_at, processed) SELECT 't', now(), n % 2 = 0 FROM generate_series(1, 50000) n;
		ANALYZE jobs; ANALYZE reactor.schedules`)
	pages := func(statement string) (read int) {
		t.Helper()
		b.exec("BEGIN")
		defer b.exec("ROLLBACK")
		var plan []struct {
			Plan struct {
				Hit  int `json:"Shared Hit Blocks"`
				Read int `json:"Shared Read Blocks"`
			}
		}
		if err := b.conn.QueryRow(b.ctx, "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "+statement).Scan(&plan); err != nil {
			t.Fatal(err)
		}
		return plan[0].Plan.Hit + plan[0].Plan.Read
	}
	whole := b.count("SELECT pg_relation_size('jobs') / 8192")
	for _, statement := range []string{
		"SELECT clock_timestamp(), look_at FROM reactor.schedules ORDER BY look_at LIMIT 1",
		"UPDATE reactor.schedules SET topic = 'new' WHERE name = 's7'",
		"UPDATE reactor.schedules SET cron = '0 * * * *' WHERE name = 's7'",
		"DELETE FROM reactor.schedules WHERE name = 's7'",
	} {
		pages(statement) // fills the caches of the session
		if read := pages(statement); read > whole/4 {
			t.Errorf("%s reads %d pages, the table has %d", statement, read, whole)
		} else {
			t.Logf("%s reads %d pages of %d", statement, read, whole)
		}
	}
}

// TestDistantSchedules: a schedule may begin at PostgreSQL's first instant, or near its last; neither disturbs
// others.
func TestDistantSchedules(t *testing.T) {
	b := newBench(t)
	b.exec(`INSERT INTO reactor.schedules (name, every, topic, start_at, end_at) VALUES
		('far', '1 hour', 'far', '294270-01-01 00:00+00', '294276-12-31 00:00+00'), ('old', '1 second', 'old', '4713-01-01 00:00+00 BC', NULL), ('over', '1 second', 'over', '4713-01-01 00:00+00 BC', '4712-01-01 00:00+00 BC')`)
	b.made("old", 5)
	b.gapless("old")
	b.eventually("far is looked at", "SELECT next_at IS NOT NULL FROM reactor.schedules WHERE name = 'far'")
	if n := b.count("SELECT count(*) FROM reactor.schedules WHERE problem IS NULL AND (name = 'far' AND look_at > '290000-01-01' AND next_at > '290000-01-01' OR name = 'old' AND next_at > last_at OR name = 'over' AND look_at = 'infinity' AND next_at IS NULL)"); n != 3 {
		t.Errorf("%d of the schedules are as they should be, want 3", n)
	}
	if n := b.count("SELECT count(*) FROM jobs WHERE topic <> 'old'"); n != 0 {
		t.Errorf("%d jobs of the other two", n)
	}
	list, err := pgsource.ListSchedules(b.ctx, b.url)
	if err != nil || len(list) != 3 || list[0].StartAt.Year() != 294270 || list[0].EndAt.Year() != 294276 || list[1].StartAt.Year() != -4712 {
		t.Errorf("listed %+v, %v", list, err)
	}
	for i, want := range []pgsource.ScheduleState{pgsource.ScheduleActive, pgsource.ScheduleActive, pgsource.ScheduleEnded} {
		if list[i].State != want {
			t.Errorf("%s is %s, want %s", list[i].Name, list[i].State, want)
		}
	}
	if next, _, err := pgsource.NextOccurrences(b.ctx, b.url, "old", 1); err != nil || len(next) != 1 || time.Until(next[0].At).Abs() > time.Minute {
		t.Errorf("the next of an old one: %v, %v", next, err)
	}
	if next, _, err := pgsource.NextOccurrences(b.ctx, b.url, "far", 1); err != nil || len(next) != 1 || next[0].At.Year() != 294270 {
		t.Errorf("the next of a far one: %v, %v", next, err)
	}
}

// TestScheduleThatBreaksANewRule: a schedule that an earlier rule has accepted says what is wrong with it, and
// keeps no other from making jobs. It occurs again when it is corrected.
func TestScheduleThatBreaksANewRule(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	const rule = "topic must not contain control or non-characters"
	b.exec(`ALTER TABLE reactor.schedules DROP CONSTRAINT "` + rule + `", ADD CONSTRAINT "` + rule + `" CHECK (topic <> 'anything')`)
	b.exec(`INSERT INTO reactor.schedules (name, cron, topic) VALUES ('bad', '* * * * * *', U&'a\FFFE'), ('good', '* * * * * *', 't')`)
	b.exec("DELETE FROM reactor.schema_version WHERE version_id = 6")
	b.migrateUp(b.url)
	b.made("good", 5)
	b.eventually("the problem is the rule", "SELECT problem = $1 FROM reactor.schedules WHERE name = 'bad'", rule)
	b.exec("UPDATE reactor.schedules SET topic = 'b' WHERE name = 'bad'")
	b.made("bad", 5)
}
