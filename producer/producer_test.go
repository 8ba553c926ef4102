package producer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/producer"
)

var (
	_ producer.PgxCopier  = pgx.Tx(nil)
	_ producer.PgxCopier  = (*pgx.Conn)(nil)
	_ producer.PgxCopier  = (*pgxpool.Pool)(nil)
	_ producer.PgxQuerier = (*pgxpool.Tx)(nil)
)

// full has a value in every column; its time is finer than a microsecond.
var full = producer.Job{
	Topic: "ä/b", PayloadBytes: []byte{0, 0xff}, FireAt: time.Date(2100, 1, 2, 3, 4, 5, 678901999, time.FixedZone("", 3600)), Key: "k", OrderingKey: "o", ExpiresAt: time.Date(2100, 1, 3, 0, 0, 0, 0, time.UTC),
	QoS: producer.AtLeastOnce, Retain: true, ContentType: "text/plain", ResponseTopic: "r/s", CorrelationData: []byte{1, 0}, Headers: map[string]string{"a": `"b" <ü>`},
}

const isFull = `topic = 'ä/b' AND payload = '' AND payload_bytes = '\x00ff' AND fire_at = '2100-01-02 02:04:05.678901+00' AND key = 'k' AND ordering_key = 'o' AND expires_at = '2100-01-03 00:00+00' AND qos = 1 AND retain
	AND content_type = 'text/plain' AND response_topic = 'r/s' AND correlation_data = '\x0100' AND headers = '{"a": "\"b\" <ü>"}' AND NOT processed AND claim IS NULL AND schedule_id IS NULL`

const isPlain = `topic = 't' AND payload = E'line\n"quoted" ü' AND fire_at BETWEEN clock_timestamp() - interval '1 minute' AND clock_timestamp() AND key IS NULL AND ordering_key IS NULL AND expires_at IS NULL AND payload_bytes IS NULL AND qos IS NULL
	AND NOT retain AND content_type IS NULL AND response_topic IS NULL AND correlation_data IS NULL AND headers IS NULL`

var plain = producer.Job{Topic: "t", Payload: "line\n\"quoted\" ü"}

// TestEveryColumn: each field arrives in its column, by each way, and what is not given is NULL.
func TestEveryColumn(t *testing.T) {
	overDrivers(t, func(w *world, db producer.DB) {
		t := w.t
		ids, err := producer.Insert(w.ctx, db, full, plain)
		if err != nil || len(ids) != 2 {
			t.Fatal(ids, err)
		}
		if w.count(fmt.Sprint(isFull, " AND id = ", ids[0])) != 1 || w.count(fmt.Sprint(isPlain, " AND id = ", ids[1])) != 1 {
			t.Error("Insert has inserted something else")
		}
		w.exec("TRUNCATE jobs")
		for range 2 { // the second replaces
			if _, _, err := producer.Schedule(w.ctx, db, full); err != nil {
				t.Fatal(err)
			}
		}
		if _, outcome, err := producer.Schedule(w.ctx, db, plain); err != nil || outcome != producer.Scheduled {
			t.Fatal(outcome, err)
		}
		if w.count(isFull) != 1 || w.count(isPlain) != 1 || w.count("true") != 2 {
			t.Error("Schedule has inserted something else")
		}
		w.exec("TRUNCATE jobs")
		n, err := producer.InsertMany(w.ctx, w.conn, slices.Values([]producer.Job{full, plain}))
		if err != nil || n != 2 || w.count(isFull) != 1 || w.count(isPlain) != 1 {
			t.Error("InsertMany has inserted something else", n, err)
		}
		for qos, want := range map[producer.QoS]string{producer.AtMostOnce: "qos = 0", producer.ExactlyOnce: "qos = 2", producer.QoSOfDeployment: "qos IS NULL"} {
			w.exec("TRUNCATE jobs")
			job := producer.Job{Topic: "t", QoS: qos, PayloadBytes: []byte{}, CorrelationData: []byte{}, Headers: map[string]string{}}
			if _, err := producer.Insert(w.ctx, db, job, job); err != nil {
				t.Fatal(err)
			}
			if _, _, err := producer.Schedule(w.ctx, db, job); err != nil {
				t.Fatal(err)
			}
			if n := w.count(want + ` AND payload_bytes = '' AND correlation_data = '' AND headers = '{}'`); n != 3 {
				t.Errorf("%v: %d of 3 jobs are as they should be", qos, n)
			}
		}
	})
}

// TestIDsInOrder: the ids come in the order of the jobs.
func TestIDsInOrder(t *testing.T) {
	overDrivers(t, func(w *world, db producer.DB) {
		jobs := make([]producer.Job, 3000)
		for i := range jobs {
			jobs[i] = producer.Job{Topic: "t", Payload: fmt.Sprint(i), FireAt: time.Now().Add(time.Duration(len(jobs)-i) * time.Minute)}
		}
		ids, err := producer.Insert(w.ctx, db, jobs...)
		if err != nil || len(ids) != len(jobs) {
			w.t.Fatal(len(ids), err)
		}
		var right int
		if err := w.conn.QueryRow(w.ctx, "SELECT count(*) FROM jobs JOIN unnest($1::bigint[]) WITH ORDINALITY AS given (id, place) USING (id) WHERE payload = (place - 1)::text", ids).Scan(&right); err != nil || right != len(jobs) {
			w.t.Errorf("%d of %d ids are those of their jobs, %v", right, len(jobs), err)
		}
		if ids, err := producer.Insert(w.ctx, db); ids != nil || err != nil {
			w.t.Error("no jobs:", ids, err)
		}
	})
}

// TestTransactions: what is done in the caller's transaction ends with it.
func TestTransactions(t *testing.T) {
	w := newWorld(t)
	tx, err := w.conn.Begin(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := producer.Insert(w.ctx, producer.Pgx(tx), plain); err != nil {
		t.Fatal(err)
	}
	if _, err := producer.InsertMany(w.ctx, tx, slices.Values([]producer.Job{plain})); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(w.ctx); err != nil || w.count("true") != 0 {
		t.Error("pgx: jobs of a transaction that was rolled back are there", err)
	}
	standard, err := w.sql.BeginTx(w.ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := producer.Insert(w.ctx, producer.SQL(standard), plain); err != nil {
		t.Fatal(err)
	}
	if w.count("true") != 0 {
		t.Error("a job is visible before the commit")
	}
	if err := standard.Commit(); err != nil || w.count("true") != 1 {
		t.Error("database/sql: the job of a transaction that was committed is not there", err)
	}
}

// TestOutcomes: each call answers by id and by key.
func TestOutcomes(t *testing.T) {
	overDrivers(t, func(w *world, db producer.DB) {
		expect := func(what string, got producer.Outcome, err error, want producer.Outcome) {
			w.t.Helper()
			if err != nil || got != want {
				w.t.Errorf("%s: %q, %v; want %q", what, got, err, want)
			}
		}
		later := time.Now().Add(time.Hour)
		job := producer.Job{Topic: "t", FireAt: later, Key: "17"} // a key that looks like an id
		id, outcome, err := producer.Schedule(w.ctx, db, job)
		expect("schedule", outcome, err, producer.Scheduled)
		again, outcome, err := producer.Schedule(w.ctx, db, job)
		expect("schedule again", outcome, err, producer.Replaced)
		if again != id {
			w.t.Errorf("replaced %d by %d", id, again)
		}
		for _, ref := range []producer.Ref{producer.ID(id), producer.Key("17")} {
			outcome, err = producer.Reschedule(w.ctx, db, ref, later.Add(time.Hour))
			expect("reschedule", outcome, err, producer.Rescheduled)
			if n := w.count("fire_at > now() + interval '110 minutes'"); n != 1 {
				w.t.Error("the time is not the new one")
			}
			outcome, err = producer.FireNow(w.ctx, db, ref)
			expect("fire now", outcome, err, producer.DueNow)
			outcome, err = producer.Reschedule(w.ctx, db, ref, time.Time{})
			expect("reschedule to now", outcome, err, producer.Rescheduled)
			if n := w.count("fire_at <= clock_timestamp()"); n != 1 {
				w.t.Error("it is not due")
			}
		}
		outcome, err = producer.Retry(w.ctx, db, id, time.Time{})
		expect("retry", outcome, err, producer.Waiting)
		outcome, err = producer.Cancel(w.ctx, db, producer.Key("17"))
		expect("cancel", outcome, err, producer.Cancelled)
		for _, ref := range []producer.Ref{producer.ID(id), producer.Key("17"), {}} {
			outcome, err = producer.Cancel(w.ctx, db, ref)
			expect("cancel what is gone", outcome, err, producer.NotFound)
		}
		// In the states that a claim and a settlement leave.
		w.exec(`INSERT INTO jobs (id, topic, fire_at, processed, claim) VALUES
			(901, 't', now(), true, '00000000-0000-4000-8000-000000000001'), (902, 't', now(), true, '00000000-0000-4000-8000-000000000002'), (903, 't', now(), true, '00000000-0000-4000-8000-000000000003');
			INSERT INTO reactor.lanes (lane) VALUES (1);
			INSERT INTO reactor.in_flight (lane, epoch, token, qos, first_slot, job_ids) VALUES (1, 1, '00000000-0000-4000-8000-000000000001', 2, 1, '{901}');
			INSERT INTO reactor.failed_jobs (job_id, attempts, code, reason, claim) VALUES (903, 1, 0, 'refused', '00000000-0000-4000-8000-000000000003')`)
		for id, want := range map[int64]producer.Outcome{901: producer.FiringNow, 902: producer.AlreadyFired, 903: producer.AlreadyFailed} {
			outcome, err = producer.Cancel(w.ctx, db, producer.ID(id))
			expect("cancel", outcome, err, want)
		}
		expires := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
		outcome, err = producer.Retry(w.ctx, db, 903, expires)
		expect("retry", outcome, err, producer.ToBeTriedAgain)
		if n := w.count("id = 903 AND NOT processed AND expires_at = '2100-01-01 00:00+00'"); n != 1 {
			w.t.Error("it is not tried again until the time given")
		}
		cancelled, firing, err := producer.CancelTopic(w.ctx, db, "t")
		if err != nil || cancelled != 1 || firing != 1 {
			w.t.Errorf("cancel topic: %d, %d, %v; want 1, 1", cancelled, firing, err)
		}
	})
}

// TestOutcomesOfTheFuture: what a newer function answers is kept, and is not taken for a change.
func TestOutcomesOfTheFuture(t *testing.T) {
	w := newWorld(t)
	w.exec("CREATE OR REPLACE FUNCTION reactor.cancel(id bigint) RETURNS text LANGUAGE sql AS $$ SELECT 'postponed' $$")
	outcome, err := producer.Cancel(w.ctx, producer.Pgx(w.conn), producer.ID(1))
	if err != nil || outcome.String() != "postponed" || outcome.Changed() {
		t.Errorf("%v, %v, changed %t", outcome, err, outcome.Changed())
	}
}

// TestRules: what is refused names its column and rule, from each call, and the error of the database
// can be had.
func TestRules(t *testing.T) {
	for name, c := range map[string]struct {
		job          producer.Job
		column, rule string
		local        bool // the database is not asked
	}{
		"wildcard":      {producer.Job{Topic: "a/#"}, "topic", "topic must not contain the wildcards + or #", false},
		"no topic":      {producer.Job{}, "topic", "topic must be 1 to 65535 bytes long", false},
		"two payloads":  {producer.Job{Topic: "t", Payload: "x", PayloadBytes: []byte("y")}, "payload", "payload and payload_bytes exclude each other", false},
		"qos":           {producer.Job{Topic: "t", QoS: 9}, "qos", "qos must be 0, 1 or 2", false},
		"response":      {producer.Job{Topic: "t", ResponseTopic: "a/+"}, "response_topic", "response_topic must be a topic without wildcards", false},
		"headers":       {producer.Job{Topic: "t", Headers: map[string]string{"job-id": "1"}}, "headers", "headers must not contain job-id or control characters", false},
		"long key":      {producer.Job{Topic: "t", Key: strings.Repeat("k", 1025)}, "key", "key must be 1 to 1024 bytes long", false},
		"no UTF-8":      {producer.Job{Topic: "t", Payload: "\xff"}, "payload", "payload must be UTF-8 without zero bytes", true},
		"a zero byte":   {producer.Job{Topic: "t", Key: "a\x00"}, "key", "key must be UTF-8 without zero bytes", true},
		"another's own": {producer.Job{Topic: "t/mine"}, "", "mine", false},
		"too late":      {producer.Job{Topic: "t", FireAt: time.Date(294277, 1, 1, 0, 0, 0, 0, time.UTC)}, "fire_at", "fire_at must be between 4714-11-24 BC and the end of the year 294276", true},
		"much too late": {producer.Job{Topic: "t", FireAt: time.Date(600_000, 1, 1, 0, 0, 0, 0, time.UTC)}, "fire_at", "fire_at must be between 4714-11-24 BC and the end of the year 294276", true},
		"too early":     {producer.Job{Topic: "t", FireAt: time.Date(-4713, 11, 23, 23, 59, 59, 999_999_999, time.UTC)}, "fire_at", "fire_at must be between 4714-11-24 BC and the end of the year 294276", true},
		"never expires": {producer.Job{Topic: "t", ExpiresAt: time.Date(294277, 1, 1, 0, 0, 0, 0, time.UTC)}, "expires_at", "expires_at must be between 4714-11-24 BC and the end of the year 294276", true},
		"a zero header": {producer.Job{Topic: "t", Headers: map[string]string{"a": "\x00"}}, "headers", "headers must be UTF-8 without zero bytes", true},
	} {
		t.Run(name, func(t *testing.T) {
			overDrivers(t, func(w *world, db producer.DB) {
				w.exec("ALTER TABLE jobs ADD CONSTRAINT mine CHECK (topic <> 't/mine')")
				_, inserted := producer.Insert(w.ctx, db, plain, c.job)
				_, many := producer.InsertMany(w.ctx, w.conn, slices.Values([]producer.Job{plain, c.job}))
				_, _, scheduled := producer.Schedule(w.ctx, db, c.job)
				for call, err := range map[string]error{"Insert": inserted, "InsertMany": many, "Schedule": scheduled} {
					var rule *producer.RuleError
					if !errors.As(err, &rule) || rule.Column != c.column || rule.Rule != c.rule || !strings.Contains(err.Error(), c.rule) {
						w.t.Errorf("%s: %v, want %q of column %q", call, err, c.rule, c.column)
					}
					var pgErr *pgconn.PgError
					if errors.As(err, &pgErr) == c.local {
						w.t.Errorf("%s: has the database refused it? %v", call, err)
					}
				}
				if n := w.count("true"); n != 0 {
					w.t.Errorf("%d jobs were inserted", n)
				}
			})
		})
	}
}

// TestFirstAndLastInstants: all instants that PostgreSQL has can be used, and no others, in every call.
func TestFirstAndLastInstants(t *testing.T) {
	first, last := time.Date(-4713, 11, 24, 0, 0, 0, 0, time.UTC), time.Date(294276, 12, 31, 23, 59, 59, 999_999_999, time.UTC)
	for text, at := range map[string]time.Time{
		"4714-11-24 00:00:00+00 BC": first, "294276-12-31 23:59:59.999999+00": last, "0001-02-29 01:02:03.000004+00 BC": time.Date(0, 2, 29, 1, 2, 3, 4_000, time.UTC),
		"0010-01-01 00:00:00+00 BC": time.Date(-9, 1, 1, 0, 0, 0, 0, time.UTC), "12345-01-01 00:00:00+00": time.Date(12345, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		t.Run(text, func(t *testing.T) {
			w := newWorld(t)
			db := producer.Pgx(w.conn)
			job := producer.Job{Topic: "t", FireAt: at}
			if _, err := producer.Insert(w.ctx, db, job); err != nil {
				t.Error(err)
			}
			if _, err := producer.InsertMany(w.ctx, w.conn, slices.Values([]producer.Job{job})); err != nil {
				t.Error(err)
			}
			id, _, err := producer.Schedule(w.ctx, db, job)
			if err == nil {
				_, err = producer.Reschedule(w.ctx, db, producer.ID(id), at)
			}
			if err != nil {
				t.Error(err)
			}
			if n := w.count("fire_at = '" + text + "'"); n != 3 {
				t.Errorf("%d of 3 jobs have the time %v", n, at)
			}
		})
	}
	overDrivers(t, func(w *world, db producer.DB) {
		id, _, err := producer.Schedule(w.ctx, db, producer.Job{Topic: "t"})
		if err != nil {
			t.Fatal(err)
		}
		beyond := last.Add(time.Microsecond)
		_, moved := producer.Reschedule(w.ctx, db, producer.ID(id), beyond)
		_, again := producer.Retry(w.ctx, db, id, beyond)
		_, begins := producer.UpsertSchedule(w.ctx, db, producer.Recurring{Name: "n", Every: time.Minute, Topic: "t", StartAt: beyond})
		_, ends := producer.UpsertSchedule(w.ctx, db, producer.Recurring{Name: "n", Every: time.Minute, Topic: "t", EndAt: beyond})
		for column, err := range map[string]error{"fire_at": moved, "expires_at": again, "start_at": begins, "end_at": ends} {
			var rule *producer.RuleError
			if !errors.As(err, &rule) || rule.Column != column {
				w.t.Errorf("%v, want one of column %s", err, column)
			}
		}
	})
}

// TestTakenKey: Insert and InsertMany do not replace.
func TestTakenKey(t *testing.T) {
	overDrivers(t, func(w *world, db producer.DB) {
		job := producer.Job{Topic: "t", FireAt: time.Now().Add(time.Hour), Key: "k"}
		if _, err := producer.Insert(w.ctx, db, job); err != nil {
			w.t.Fatal(err)
		}
		_, one := producer.Insert(w.ctx, db, job)
		_, many := producer.InsertMany(w.ctx, w.conn, slices.Values([]producer.Job{job}))
		for _, err := range []error{one, many} {
			var rule *producer.RuleError
			if !errors.As(err, &rule) || rule.Column != "key" || !strings.Contains(rule.Rule, "Schedule") {
				w.t.Error(err)
			}
		}
	})
}

// TestInsertMany: it counts, holds to the order of magnitude of rows, ends when the context does, and
// leaves nothing of a COPY that failed.
func TestInsertMany(t *testing.T) {
	w := newWorld(t)
	produce := func(n int, at func(i int) producer.Job) func(func(producer.Job) bool) {
		return func(yield func(producer.Job) bool) {
			for i := range n {
				if !yield(at(i)) {
					return
				}
			}
		}
	}
	n, err := producer.InsertMany(w.ctx, w.conn, produce(20_000, func(i int) producer.Job { return producer.Job{Topic: "t", Payload: fmt.Sprint(i)} }))
	if err != nil || n != 20_000 || w.count("fire_at <= clock_timestamp()") != 20_000 {
		t.Error(n, err)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	conn, err := pgx.Connect(ctx, w.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(w.ctx)
	n, err = producer.InsertMany(ctx, conn, produce(1_000_000, func(i int) producer.Job {
		if i == 50_000 {
			cancel()
		}
		return producer.Job{Topic: "t"}
	}))
	if err == nil || n != 0 || w.count("true") != 20_000 {
		t.Errorf("after the end of its context: %d, %v", n, err)
	}
	if n, err := producer.InsertMany(w.ctx, w.conn, produce(0, nil)); n != 0 || err != nil {
		t.Error("no jobs:", n, err)
	}
}

// TestOtherSearchPath: the table is found where the deployment has it, and functions that somebody else
// has planted are not called.
func TestOtherSearchPath(t *testing.T) {
	overDrivers(t, func(w *world, db producer.DB) {
		w.exec(`CREATE SCHEMA away; ALTER TABLE jobs SET SCHEMA away; UPDATE reactor.deployment SET jobs_schema = 'away';
			CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE 'caught'; END $$;
			CREATE DOMAIN public.timestamptz AS pg_catalog.timestamptz CHECK (false)`)
		w.exec(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database()); END $$`)
		conn, err := pgx.Connect(w.ctx, w.url)
		if err != nil {
			w.t.Fatal(err)
		}
		defer conn.Close(w.ctx)
		for _, db := range []producer.DB{db, producer.Pgx(conn)} {
			if _, err := producer.Insert(w.ctx, db, plain); err != nil {
				w.t.Error(err)
			}
			if _, outcome, err := producer.Schedule(w.ctx, db, full); err != nil || !outcome.Changed() {
				w.t.Error(outcome, err)
			}
			if outcome, err := producer.Reschedule(w.ctx, db, producer.Key("k"), time.Time{}); err != nil || outcome != producer.Rescheduled {
				w.t.Error(outcome, err)
			}
		}
		if n, err := producer.InsertMany(w.ctx, conn, slices.Values([]producer.Job{plain})); err != nil || n != 1 {
			w.t.Error(n, err)
		}
	})
}

// TestWithoutTheFunctions: the error says what to run.
func TestWithoutTheFunctions(t *testing.T) {
	w := newWorld(t)
	w.exec("DROP SCHEMA reactor CASCADE")
	_, err := producer.Insert(w.ctx, producer.Pgx(w.conn), plain)
	if !errors.Is(err, producer.ErrSchema) || !strings.Contains(err.Error(), "reactor migrate up") {
		t.Error(err)
	}
	if _, err := producer.InsertMany(w.ctx, w.conn, slices.Values([]producer.Job{plain})); !errors.Is(err, producer.ErrSchema) {
		t.Error(err)
	}
	if _, err := producer.Insert(w.ctx, producer.DB{}, plain); err == nil || !strings.Contains(err.Error(), "producer.Pgx") {
		t.Error(err)
	}
}

// TestSilentTrigger: fewer ids than jobs are an error.
func TestSilentTrigger(t *testing.T) {
	w := newWorld(t)
	w.exec(`CREATE FUNCTION silent() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE TRIGGER silent BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION silent()`)
	if _, err := producer.Insert(w.ctx, producer.Pgx(w.conn), plain); err == nil || !strings.Contains(err.Error(), "0 of 1 jobs were inserted") {
		t.Error(err)
	}
}

// TestOtherSchema: a deployment whose tables are in another schema, with both kinds of drivers.
func TestOtherSchema(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := pgsource.MigrateUp(w.ctx, w.url, pgsource.Names{Schema: "zq", JobsTable: "public.reminders"}); err != nil {
		t.Fatal(err)
	}
	w.exec("DROP TABLE jobs; DROP SCHEMA reactor CASCADE") // what forgets the option fails
	for _, db := range []producer.DB{producer.Pgx(w.conn, producer.Schema("zq")), producer.SQL(w.sql, producer.Schema("zq"))} {
		ids, err := producer.Insert(w.ctx, db, producer.Job{Topic: "a", FireAt: time.Now().Add(time.Hour)})
		if err != nil || len(ids) != 1 {
			t.Fatal(ids, err)
		}
		if outcome, err := producer.Cancel(w.ctx, db, producer.ID(ids[0])); outcome != producer.Cancelled {
			t.Error(outcome, err)
		}
		if _, err := producer.UpsertSchedule(w.ctx, db, producer.Recurring{Name: "s", Every: time.Hour, Topic: "s"}); err != nil {
			t.Error(err)
		}
		if id, err := producer.RunSchedule(w.ctx, db, "s"); err != nil || id == 0 {
			t.Error(id, err)
		}
		if err := producer.DeleteSchedule(w.ctx, db, "s"); err != nil {
			t.Error(err)
		}
	}
	if n, err := producer.InsertMany(w.ctx, w.conn, slices.Values([]producer.Job{{Topic: "b"}, {Topic: "b"}}), producer.Schema("zq")); n != 2 {
		t.Error(n, err)
	}
	if _, err := producer.Insert(w.ctx, producer.Pgx(w.conn, producer.Schema("no schema")), producer.Job{Topic: "a"}); err == nil || !strings.Contains(err.Error(), `Schema "no schema" must consist of`) {
		t.Errorf("a name that is none: %v", err)
	}
	if _, err := producer.Insert(w.ctx, producer.Pgx(w.conn), producer.Job{Topic: "a"}); !errors.Is(err, producer.ErrSchema) {
		t.Errorf("without the option: %v", err)
	}
}
