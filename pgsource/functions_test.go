package pgsource_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// answer is what a function for producers says.
func (b *bench) answer(sql string, args ...any) string {
	b.t.Helper()
	var text string
	if err := b.conn.QueryRow(b.ctx, "SELECT "+sql, args...).Scan(&text); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
	return text
}

// schedule schedules a job in an hour with a key, and returns its id.
func (b *bench) schedule(key, want string) int64 {
	b.t.Helper()
	var id int64
	var outcome string
	if err := b.conn.QueryRow(b.ctx, "SELECT id, outcome FROM reactor.schedule('t', 'p', now() + interval '1 hour', key => $1::text)", key).Scan(&id, &outcome); err != nil {
		b.t.Fatal(err)
	}
	if outcome != want {
		b.t.Errorf("schedule with key %s answers %q, want %q", key, outcome, want)
	}
	return id
}

// keepBack settles a batch of which nothing was sent, while the row of each job is locked: the jobs
// are noted and do not come back before the returned function is called.
func (b *bench) keepBack(batch driver.Batch) (release func()) {
	b.t.Helper()
	tx, err := connect(b.t, b.ctx, b.url).Begin(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := tx.Exec(b.ctx, "SELECT FROM jobs WHERE id = ANY ($1) FOR UPDATE", idsOf(batch)); err != nil {
		b.t.Fatal(err)
	}
	b.unsent(batch)
	return func() {
		b.t.Helper()
		if err := tx.Rollback(b.ctx); err != nil {
			b.t.Fatal(err)
		}
	}
}

// each runs a test on a table without and on one with partitions.
func each(t *testing.T, test func(t *testing.T, b *bench)) {
	t.Run("plain", func(t *testing.T) { test(t, newBench(t)) })
	t.Run("partitions", func(t *testing.T) {
		b := converted(t, "")
		b.start(b.url)
		test(t, b)
	})
}

// TestAnswers: each function answers what is true of a job in each of its states.
func TestAnswers(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		cancel, move, fire, retry := "reactor.cancel($1::bigint)", "reactor.reschedule($1::bigint, now())", "reactor.fire_now($1::bigint)", "reactor.retry($1::bigint)"
		says := func(state string, id int64, want map[string]string) {
			t.Helper()
			for sql, text := range want {
				if got := b.answer(sql, id); got != text {
					t.Errorf("%s of a job that is %s answers %q, want %q", sql, state, got, text)
				}
			}
		}
		all := func(text string) map[string]string {
			return map[string]string{cancel: text, move: text, fire: text, retry: text}
		}
		says("missing", 1<<40, all("not found"))

		waiting := b.schedule("waiting", "scheduled")
		says("waiting", waiting, map[string]string{retry: "waiting"})
		says("waiting", waiting, map[string]string{move: "rescheduled"})
		says("waiting", waiting, map[string]string{fire: "due now"})
		b.eventually("it is due", "SELECT fire_at <= clock_timestamp() FROM jobs WHERE id = $1", waiting)

		batch := b.claim([]int64{waiting})
		if len(batch.Jobs) != 1 {
			t.Fatal("the job that is due was not claimed")
		}
		says("firing", waiting, all("too late, firing now"))
		b.published(batch)
		says("fired", waiting, all("already fired"))

		// By key: what is said concerns the unfired job, and otherwise the latest.
		if got := b.answer("reactor.cancel('waiting')"); got != "already fired" {
			t.Errorf("by the key of a fired job: %q", got)
		}
		if got := b.answer("reactor.cancel('nobody')"); got != "not found" {
			t.Errorf("by an unknown key: %q", got)
		}
		second := b.schedule("waiting", "scheduled")
		if second == waiting {
			t.Error("a job that has fired was replaced")
		}
		if again := b.schedule("waiting", "replaced"); again != second {
			t.Errorf("the job that was replaced has id %d, had %d", again, second)
		}
		for _, c := range [][2]string{{"reactor.reschedule('waiting', now() + interval '2 hours')", "rescheduled"}, {"reactor.fire_now('waiting')", "due now"}, {"reactor.cancel('waiting')", "cancelled"}, {"reactor.cancel('waiting')", "already fired"}} {
			if got := b.answer(c[0]); got != c[1] {
				t.Errorf("%s answers %q, want %q", c[0], got, c[1])
			}
		}
		says("cancelled", second, all("not found"))

		// Processed by hand, which cancels.
		b.exec("INSERT INTO jobs (id, topic, fire_at, processed) VALUES (900, 't', now(), true)")
		says("processed by hand", 900, all("already fired"))

		// Failed, and tried again with all its attempts.
		failing := b.insert(1, "0")
		for range 2 {
			b.exec("SELECT reactor.fire_now($1::bigint)", failing[0]) // without the pause before the next attempt
			b.eventually("it can be claimed", "SELECT NOT processed FROM jobs WHERE id = $1", failing[0])
			batch := b.claim(failing)
			if len(batch.Jobs) != 1 {
				t.Fatal("the job is not claimed")
			}
			b.refuse(batch)
		}
		// fire_now has begun the count of attempts anew: this is the second, and the last.
		b.eventually("it is back", "SELECT NOT processed FROM jobs WHERE id = $1", failing[0])
		b.refuse(b.claim(failing))
		says("failed", failing[0], map[string]string{cancel: "already failed", move: "already failed", fire: "already failed"})
		says("failed", failing[0], map[string]string{retry: "to be tried again"})
		says("tried again", failing[0], map[string]string{retry: "waiting"})
		b.published(b.claim(failing))
		if n := b.count("SELECT count(*) FROM reactor.failed_jobs"); n != 0 {
			t.Error("it is recorded as failed after it was published")
		}

		// Returning: each function can still change it.
		for sql, want := range map[string]string{cancel: "cancelled", move: "rescheduled", fire: "due now", retry: "waiting"} {
			ids := b.insert(1, "0")
			batch := b.claim(ids)
			b.exec("BEGIN")
			b.exec("SELECT FROM jobs WHERE id = $1 FOR UPDATE", ids[0])
			b.unsent(batch)
			says("returning", ids[0], map[string]string{sql: want})
			b.exec("COMMIT")
			if sql == cancel {
				if n := b.count("SELECT count(*) FROM jobs WHERE id = $1", ids[0]); n != 0 {
					t.Error("a returning job was not cancelled")
				}
				continue
			}
			b.eventually("it is back", "SELECT NOT processed FROM jobs WHERE id = $1", ids[0])
			if batch := b.claim(ids); len(batch.Jobs) != 1 {
				t.Errorf("after %s the job cannot be claimed", sql)
			} else {
				b.published(batch)
			}
		}
	})
}

// TestScheduleSetsEverything: each argument arrives in its column, also when it replaces; NULLs that
// drivers pass for what is not given are the defaults.
func TestScheduleSetsEverything(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		full := `reactor.schedule('a', NULL, '2100-01-01', 'k', '2100-01-02', '\x00ff', 1, true, 'text/plain', 'r/s', '\x01', '{"a": "b"}', 'o')`
		same := `SELECT count(*) FROM jobs WHERE topic = 'a' AND payload = '' AND fire_at = '2100-01-01' AND key = 'k' AND expires_at = '2100-01-02' AND payload_bytes = '\x00ff'
			AND qos = 1 AND retain AND content_type = 'text/plain' AND response_topic = 'r/s' AND correlation_data = '\x01' AND headers = '{"a": "b"}' AND ordering_key = 'o' AND schedule_id IS NULL AND occurrence_at IS NULL`
		b.exec("SELECT " + full)
		if b.count(same) != 1 {
			t.Error("inserted differently")
		}
		b.exec("SELECT reactor.schedule('b', key => 'k', retain => NULL)")
		if b.count(`SELECT count(*) FROM jobs WHERE topic = 'b' AND payload = '' AND fire_at BETWEEN now() - interval '1 minute' AND clock_timestamp() AND expires_at IS NULL AND payload_bytes IS NULL
			AND qos IS NULL AND NOT retain AND content_type IS NULL AND response_topic IS NULL AND correlation_data IS NULL AND headers IS NULL AND ordering_key IS NULL`) != 1 {
			t.Error("replacing has left something of the job before")
		}
		b.exec("SELECT " + full)
		if b.count(same) != 1 || b.count("SELECT count(*) FROM jobs") != 1 {
			t.Error("replaced differently")
		}
	})
}

// TestPlainUpsert: the key works with plain SQL as well.
func TestPlainUpsert(t *testing.T) {
	b := newBench(t)
	for n := range 2 {
		b.exec(`INSERT INTO jobs (topic, payload, fire_at, key) VALUES ('t', $1, now() + interval '1 hour', 'k')
			ON CONFLICT (key) WHERE NOT processed AND key IS NOT NULL
			DO UPDATE SET topic = excluded.topic, payload = excluded.payload, fire_at = excluded.fire_at`, fmt.Sprint(n))
	}
	if n := b.count("SELECT count(*) FROM jobs WHERE key = 'k' AND payload = '1'"); n != 1 || b.count("SELECT count(*) FROM jobs") != 1 {
		t.Error("the second did not replace the first")
	}
	_, err := b.conn.Exec(b.ctx, "INSERT INTO jobs (topic, fire_at, key) VALUES ('t', now(), 'k')")
	if pgErr := (*pgconn.PgError)(nil); !errors.As(err, &pgErr) || pgErr.ConstraintName != "jobs_key" {
		t.Errorf("a second unfired job with the key: %v", err)
	}
}

// TestReplaceConcurrently: whoever comes last has the key, and one unfired job is left.
func TestReplaceConcurrently(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b *bench) {
		const writers, rounds = 6, 40
		var wg sync.WaitGroup
		for w := range writers {
			conn := connect(t, b.ctx, b.url)
			wg.Go(func() {
				for r := range rounds {
					if _, err := conn.Exec(b.ctx, "SELECT reactor.schedule('t', $1::text, now() + interval '1 hour', 'k')", fmt.Sprint(w, " ", r)); err != nil {
						t.Error(err)
						return
					}
					if w == 0 && r%4 == 0 {
						if _, err := conn.Exec(b.ctx, "SELECT reactor.cancel('k')"); err != nil {
							t.Error(err)
							return
						}
					}
				}
			})
		}
		wg.Wait()
		b.schedule("k", "replaced")
		if n := b.count("SELECT count(*) FROM jobs WHERE key = 'k' AND NOT processed"); n != 1 {
			t.Errorf("%d unfired jobs have the key", n)
		}
	})
}

// TestTwoWithAKeyInPartitions: where plain INSERTs have given two jobs one key, schedule leaves one.
func TestTwoWithAKeyInPartitions(t *testing.T) {
	b := converted(t, "")
	b.exec("INSERT INTO jobs (topic, fire_at, key) SELECT 't', now() + n * interval '1 day', 'k' FROM generate_series(1, 3) n")
	b.schedule("k", "replaced")
	if n := b.count("SELECT count(*) FROM jobs"); n != 1 {
		t.Errorf("%d jobs are left", n)
	}
}

// TestAnOlderJobWithTheKeyReturns: while a job was claimed, its key went to a newer one. When it comes
// back it ends as failed, and others that come back with it are not held up.
func TestAnOlderJobWithTheKeyReturns(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		first := b.schedule("k", "scheduled")
		b.exec("SELECT reactor.fire_now('k')")
		ids := append(b.insert(2, "0"), first)
		batch := b.claim(ids)
		if len(batch.Jobs) != 3 {
			t.Fatal("not all were claimed")
		}
		second := b.schedule("k", "scheduled")
		b.unsent(batch)
		b.eventually("it has ended", "SELECT EXISTS (SELECT FROM reactor.failed_jobs WHERE job_id = $1 AND reason LIKE '%replaced by a newer job with its key' AND state = 'failed')", first)
		if n := b.count("SELECT count(*) FROM jobs WHERE NOT processed"); n != 3 {
			t.Errorf("%d jobs are unprocessed, want the two others and the newer one", n)
		}
		if n := b.count("SELECT count(*) FROM reactor.retries WHERE NOT returned"); n != 0 {
			t.Errorf("%d notes are left", n)
		}
		if got := b.answer("reactor.retry($1::bigint)", first); got != "replaced by a newer job with its key" {
			t.Errorf("retry answers %q", got)
		}
		if got := b.answer("reactor.cancel($1::bigint)", first); got != "already failed" {
			t.Errorf("cancel answers %q", got)
		}
		// Without the newer one it can be tried again.
		if got := b.answer("reactor.cancel('k')"); got != "cancelled" {
			t.Errorf("cancelling the newer one, %d: %q", second, got)
		}
		if got := b.answer("reactor.retry($1::bigint)", first); got != "to be tried again" {
			t.Errorf("retry answers %q", got)
		}
	})
}

// TestTwoWithAKeyReturn: two jobs that had a key one after the other come back at once. The newer one
// does.
func TestTwoWithAKeyReturn(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		var older, newer int64
		var release []func()
		for range 2 {
			older, newer = newer, b.schedule("k", "scheduled")
			b.exec("SELECT reactor.fire_now('k')")
			batch := b.claim([]int64{newer})
			if len(batch.Jobs) != 1 {
				t.Fatal("not claimed")
			}
			release = append(release, b.keepBack(batch))
		}
		for _, f := range release {
			f()
		}
		b.eventually("both notes are gone", "SELECT NOT EXISTS (SELECT FROM reactor.retries WHERE NOT returned)")
		if n := b.count("SELECT count(*) FROM jobs WHERE NOT processed AND id = $1", newer); n != 1 || b.count("SELECT count(*) FROM jobs WHERE NOT processed") != 1 {
			t.Error("the newer one is not the only one that came back")
		}
		if n := b.count("SELECT count(*) FROM reactor.failed_jobs WHERE job_id = $1", older); n != 1 {
			t.Error("the older one is not recorded as failed")
		}
	})
}

// TestAKeyThatIsBeingTaken: somebody has inserted the key and not committed. The older job with the key
// waits, and nobody else; then it ends.
func TestAKeyThatIsBeingTaken(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b *bench) {
		first := b.schedule("k", "scheduled")
		b.exec("SELECT reactor.fire_now('k')")
		others := b.insert(3, "0")
		batch := b.claim(append([]int64{first}, others...))
		tx, err := connect(t, b.ctx, b.url).Begin(b.ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(b.ctx)
		if _, err := tx.Exec(b.ctx, "SELECT reactor.schedule('t', key => 'k', fire_at => now() + interval '1 hour')"); err != nil {
			t.Fatal(err)
		}
		b.unsent(batch)
		b.eventually("the others are back", "SELECT count(*) = 3 FROM jobs WHERE NOT processed AND id = ANY ($1)", others)
		if n := b.count("SELECT count(*) FROM reactor.retries WHERE NOT returned AND job_id = $1", first); n != 1 {
			t.Error("the one whose key is being taken is not noted any more")
		}
		if err := tx.Commit(b.ctx); err != nil {
			t.Fatal(err)
		}
		b.eventually("it has ended", "SELECT EXISTS (SELECT FROM reactor.failed_jobs WHERE job_id = $1 AND reason LIKE '%replaced by a newer job with its key')", first)
	})
}

// TestReschedulingWhatWasReplaced: by its id, a job that is about to come back is not made due beside a
// newer one with its key.
func TestReschedulingWhatWasReplaced(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		first := b.schedule("k", "scheduled")
		b.exec("SELECT reactor.fire_now('k')")
		batch := b.claim([]int64{first})
		b.schedule("k", "scheduled")
		b.exec("BEGIN")
		b.exec("SELECT FROM jobs WHERE id = $1 FOR UPDATE", first)
		b.unsent(batch)
		for _, sql := range []string{"reactor.fire_now($1::bigint)", "reactor.reschedule($1::bigint, now())"} {
			if got := b.answer(sql, first); got != "replaced by a newer job with its key" {
				t.Errorf("%s answers %q", sql, got)
			}
		}
		if got := b.answer("reactor.cancel($1::bigint)", first); got != "cancelled" {
			t.Errorf("cancel answers %q", got)
		}
		b.exec("COMMIT")
		if n := b.count("SELECT count(*) FROM jobs WHERE key = 'k'"); n != 1 {
			t.Errorf("%d jobs have the key", n)
		}
	})
}

// TestCancelTopic: exactly the jobs whose topic begins with the text go, and those that are being fired
// are counted.
func TestCancelTopic(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		b.exec("INSERT INTO jobs (id, topic, fire_at) VALUES (1, 'a/b', now()), (2, 'a/b/c', now()), (3, 'a/bc', now()), (4, 'a', now()), (5, 'x/a/b', now()), (6, 'a/b/%', now()), (7, 'a/b/d', now()), (8, 'A/b', now())")
		firing := b.claim([]int64{6, 8})
		release := b.keepBack(b.claim([]int64{7}))
		release() // the job is noted, and returning until the next beat
		var cancelled, late int
		if err := b.conn.QueryRow(b.ctx, "SELECT * FROM reactor.cancel_topic('a/b')").Scan(&cancelled, &late); err != nil {
			t.Fatal(err)
		}
		if cancelled != 4 || late != 1 {
			t.Errorf("cancelled %d, and %d too late; want 4 and 1", cancelled, late)
		}
		if n := b.count("SELECT count(*) FROM jobs WHERE id IN (4, 5, 6, 8)"); n != 4 || b.count("SELECT count(*) FROM jobs") != 4 {
			t.Error("the wrong jobs are gone")
		}
		b.published(firing)
		if err := b.conn.QueryRow(b.ctx, "SELECT * FROM reactor.cancel_topic('a/b')").Scan(&cancelled, &late); err != nil || cancelled != 0 || late != 0 {
			t.Errorf("afterwards %d and %d, %v", cancelled, late, err)
		}
	})
}

// TestAnswersHoldUntilTheCommit: what was changed in a transaction is left alone by claims until it
// ends, and what was rolled back fires.
func TestAnswersHoldUntilTheCommit(t *testing.T) {
	b := newBench(t)
	ids := b.insert(2, "0")
	b.exec("BEGIN")
	if got := b.answer("reactor.cancel($1::bigint)", ids[0]); got != "cancelled" {
		t.Fatal(got)
	}
	if batch := b.claim(ids); len(batch.Jobs) != 1 || batch.Jobs[0].ID != ids[1] {
		t.Errorf("claimed %v", idsOf(batch))
	}
	b.exec("ROLLBACK")
	if batch := b.claim(ids); len(batch.Jobs) != 1 || batch.Jobs[0].ID != ids[0] {
		t.Errorf("after the rollback claimed %v", idsOf(batch))
	}
}

// TestRepeatableRead: a job that was claimed since the transaction began makes the functions fail, and
// none of them lies.
func TestRepeatableRead(t *testing.T) {
	b := newBench(t)
	id := b.schedule("k", "scheduled")
	other := connect(t, b.ctx, b.url)
	for _, sql := range []string{"reactor.cancel($1::bigint)::text", "reactor.fire_now($1::bigint)::text", "reactor.reschedule($1::bigint, now())::text", "reactor.retry($1::bigint)::text"} {
		tx, err := other.BeginTx(b.ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(b.ctx, "SELECT FROM jobs"); err != nil { // takes the snapshot
			t.Fatal(err)
		}
		b.exec("UPDATE jobs SET payload = payload || 'x'") // as a claim changes the row
		var text string
		err = tx.QueryRow(b.ctx, "SELECT "+sql, id).Scan(&text)
		if pgErr := (*pgconn.PgError)(nil); !errors.As(err, &pgErr) || pgErr.Code != "40001" {
			t.Errorf("%s: %q, %v; want SQLSTATE 40001", sql, text, err)
		}
		tx.Rollback(b.ctx)
	}
	// A key that somebody has taken meanwhile.
	tx, err := other.BeginTx(b.ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(b.ctx)
	if _, err := tx.Exec(b.ctx, "SELECT FROM jobs"); err != nil {
		t.Fatal(err)
	}
	b.schedule("new", "scheduled")
	_, err = tx.Exec(b.ctx, "SELECT reactor.schedule('t', key => 'new')")
	if pgErr := (*pgconn.PgError)(nil); !errors.As(err, &pgErr) || pgErr.Code != "40001" {
		t.Errorf("schedule: %v; want SQLSTATE 40001", err)
	}
}

// TestKeysOfPartitionsNeedReadCommitted: an older snapshot would not see the job to replace.
func TestKeysOfPartitionsNeedReadCommitted(t *testing.T) {
	b := converted(t, "")
	b.exec("BEGIN ISOLATION LEVEL SERIALIZABLE")
	_, err := b.conn.Exec(b.ctx, "SELECT reactor.schedule('t', key => 'k')")
	if err == nil || !strings.Contains(err.Error(), "keys of a table with partitions cannot be used under SERIALIZABLE") {
		t.Error(err)
	}
	b.exec("ROLLBACK")
}

// TestProducerRights: the rights that functions.sql names are enough, and each is needed.
func TestProducerRights(t *testing.T) {
	b := newBench(t)
	producer, url := b.role("")
	b.exec("GRANT USAGE ON SCHEMA reactor TO " + producer + "; GRANT SELECT ON reactor.deployment, reactor.lanes, reactor.journal_starts, reactor.in_flight, reactor.retries, reactor.failed_jobs TO " + producer +
		"; GRANT SELECT, INSERT, UPDATE, DELETE ON jobs TO " + producer)
	b.exec("INSERT INTO jobs (id, topic, fire_at, processed, claim) VALUES (901, 't', now(), true, gen_random_uuid()), (902, 't', now(), true, 'e9c4ce10-0000-4000-8000-000000000000')")
	b.exec("INSERT INTO reactor.failed_jobs (job_id, attempts, code, reason, claim) VALUES (902, 1, 0, 'r', 'e9c4ce10-0000-4000-8000-000000000000')")
	conn := connect(t, b.ctx, url)
	for _, sql := range []string{
		"(reactor.schedule('t', key => 'k', fire_at => now() + interval '1 hour')).outcome = 'scheduled'", "(reactor.schedule('t', key => 'k', fire_at => now() + interval '1 hour')).outcome = 'replaced'",
		"reactor.reschedule('k', now() + interval '2 hours') = 'rescheduled'", "reactor.fire_now('k') = 'due now'", "reactor.cancel('k') = 'cancelled'",
		"reactor.cancel(901) = 'already fired'", "reactor.retry(902) = 'to be tried again'", "(reactor.cancel_topic('t')).cancelled = 1",
	} {
		var ok bool
		if err := conn.QueryRow(b.ctx, "SELECT "+sql).Scan(&ok); err != nil || !ok {
			t.Errorf("%s: %t, %v", sql, ok, err)
		}
	}
	b.exec("REVOKE DELETE ON jobs FROM " + producer)
	if _, err := conn.Exec(b.ctx, "SELECT reactor.cancel((reactor.schedule('t', key => 'k')).id)"); err == nil {
		t.Error("a role without DELETE cancels")
	}
}

// TestHostileSearchPath: the functions call nothing that a producer has planted, wherever the caller's
// search path leads, and find the table.
func TestHostileSearchPath(t *testing.T) {
	each(t, func(t *testing.T, b *bench) {
		role, url := b.role("")
		b.exec("GRANT CREATE ON SCHEMA public TO " + role)
		b.plant(url)
		for _, path := range []string{"public, pg_catalog", "nowhere"} {
			conn := connect(t, b.ctx, with(t, b.url, "search_path", path))
			for _, sql := range []string{
				"reactor.schedule('t', 'p', pg_catalog.now(), 'k')", "reactor.schedule('t', 'p', pg_catalog.now(), 'k')", "reactor.reschedule('k', pg_catalog.now())", "reactor.fire_now('k')",
				"reactor.retry(1)", "reactor.cancel_topic('t')", "reactor.cancel('k')", "reactor.cancel(1)",
			} {
				if _, err := conn.Exec(b.ctx, "SELECT "+sql); err != nil {
					t.Errorf("%s with the path %s: %v", sql, path, err)
				}
			}
		}
		if list := b.caught(); len(list) > 0 {
			t.Errorf("the functions have called %v", list)
		}
	})
}

// TestSilentTriggers: a trigger that suppresses a change makes the functions fail; they do not answer
// that it was made.
func TestSilentTriggers(t *testing.T) {
	b := newBench(t)
	b.schedule("k", "scheduled")
	b.exec(`CREATE FUNCTION silent() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE TRIGGER silent BEFORE INSERT OR UPDATE OR DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION silent()`)
	for _, sql := range []string{"reactor.cancel('k')", "reactor.fire_now('k')", "reactor.schedule('t')", "reactor.schedule('t', key => 'other')"} {
		if _, err := b.conn.Exec(b.ctx, "SELECT "+sql); err == nil || !strings.Contains(err.Error(), "no reason is given") {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// TestConvertKeepsKeys: a table whose keys were unique gets partitions, and schedule still replaces.
func TestConvertKeepsKeys(t *testing.T) {
	b := newBench(t)
	b.schedule("k", "scheduled")
	if err := b.member.Leave(b.ctx); err != nil {
		t.Fatal(err)
	}
	if err := pgsource.ConvertToPartitions(b.ctx, b.url, 24*time.Hour); err != nil {
		t.Fatal(err)
	}
	if n := b.count("SELECT count(*) FROM pg_index WHERE indexrelid = 'jobs_key'::regclass AND NOT indisunique"); n != 1 {
		t.Error("the index of the keys is not there")
	}
	b.schedule("k", "replaced")
	if n := b.count("SELECT count(*) FROM jobs"); n != 1 {
		t.Errorf("%d jobs", n)
	}
	if names := b.migrateUp(b.url); len(names) != 0 { // the text of the schema runs again on it
		t.Errorf("applied %v again", names)
	}
}

// TestRowsThatMayOnlyBeRead: row-level security may let a role see a job and not change it. The functions
// say so: they neither try for ever, nor answer that there is no such job.
func TestRowsThatMayOnlyBeRead(t *testing.T) {
	b := newBench(t)
	role, url := b.role("")
	b.grant(role)
	b.exec("GRANT INSERT, DELETE ON jobs TO " + role)
	b.exec("INSERT INTO jobs (id, topic, fire_at, key) VALUES (1, 'a/b', now() + interval '1 hour', 'k'), (2, 'a/c', now() + interval '1 hour', NULL)")
	b.exec("ALTER TABLE jobs ENABLE ROW LEVEL SECURITY; CREATE POLICY see ON jobs FOR SELECT TO " + role + " USING (true); CREATE POLICY own ON jobs FOR ALL TO " + role + " USING (topic LIKE 'own/%')")
	reader := connect(t, b.ctx, url)
	if _, err := reader.Exec(b.ctx, "SET statement_timeout = '20s'"); err != nil {
		t.Fatal(err)
	}
	for call, want := range map[string]string{
		"cancel('k'::text)": "job 1 can be read, and not be changed", "cancel(2::bigint)": "job 2 can be read, and not be changed",
		"reschedule('k'::text, now())": "job 1 can be read", "fire_now(1::bigint)": "job 1 can be read", "retry(1::bigint)": "job 1 can be read",
		"cancel_topic('a/')": "jobs were not deleted", "schedule('own/t', key => 'k')": "cannot be inserted",
	} {
		if _, err := reader.Exec(b.ctx, "SELECT reactor."+call); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", call, err, want)
		}
	}
	for call, want := range map[string]string{"cancel(3::bigint)": "not found", "cancel('other'::text)": "not found"} {
		var got string
		if err := reader.QueryRow(b.ctx, "SELECT reactor."+call).Scan(&got); err != nil || got != want {
			t.Errorf("%s: %q, %v", call, got, err)
		}
	}
	if n := b.count("SELECT count(*) FROM jobs WHERE NOT processed"); n != 2 {
		t.Errorf("%d of 2 jobs are left", n)
	}
}

// TestCancelTopicWithoutATopic: a prefix that was forgotten does not cancel everything.
func TestCancelTopicWithoutATopic(t *testing.T) {
	b := newBench(t)
	b.insert(2, "1 hour")
	for _, prefix := range []string{"''", "NULL"} {
		_, err := b.conn.Exec(b.ctx, "SELECT reactor.cancel_topic("+prefix+")")
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || !strings.Contains(pgErr.Message, "would cancel every job") || !strings.Contains(pgErr.Hint, "DELETE FROM public.jobs WHERE NOT processed") {
			t.Errorf("%s: %v", prefix, err)
		}
	}
	if n := b.count("SELECT count(*) FROM jobs"); n != 2 {
		t.Errorf("%d of 2 jobs are left", n)
	}
}

// TestHeadersAreText: names and values may contain anything but what MQTT lets a broker close the
// connection for; and it is what they mean that counts, not how JSON writes it.
func TestHeadersAreText(t *testing.T) {
	b := newBench(t)
	refused := func(text string) {
		t.Helper()
		for _, headers := range []map[string]string{{"a" + text: "b"}, {"a": "b" + text + "c"}, {text: text}} {
			for _, table := range []string{"jobs (topic, fire_at, headers) VALUES ('t', now(), $1)", "reactor.schedules (name, every, topic, headers) VALUES (gen_random_uuid(), '1 min', 't', $1)"} {
				if _, err := b.conn.Exec(b.ctx, "INSERT INTO "+table, headers); err == nil || !strings.Contains(err.Error(), "headers must not contain job-id or control characters") {
					t.Errorf("%q in %s: %v", headers, table, err)
				}
			}
		}
	}
	for c := rune(1); c <= 0x9F; c++ {
		if c < 0x20 || c >= 0x7F {
			refused(string(c))
		}
	}
	for _, c := range "\uFDD0\uFDEF\uFFFE\uFFFF\U0001FFFE\U0001FFFF\U0009FFFE\U000AFFFF\U000FFFFE\U0010FFFF" {
		refused(string(c))
	}
	for _, text := range []string{"", `\u0012`, `\\u0012`, `\n`, `\`, `"`, `"\u0001"`, " ~\u00a0", "ü€😀", "\uFDCF\uFDF0\uFFFD", "\U0001FFFD\U00020000", "$.* ? (@)", "job-id is a value", "Job-Id"} {
		b.exec("INSERT INTO jobs (topic, fire_at, headers) VALUES ('t', now(), $1)", map[string]string{"a": text, "a" + text: "b", text: text})
		b.exec("INSERT INTO reactor.schedules (name, every, topic, headers) VALUES (gen_random_uuid(), '1 min', 't', $1)", map[string]string{"a" + text: text})
	}
	// In the other texts the same characters are refused.
	for _, c := range "\u0001\n\u007f\u009f\uFDD0\uFFFF\U0001FFFE\U0010FFFF" {
		for _, column := range []string{"content_type", "response_topic"} {
			if _, err := b.conn.Exec(b.ctx, "INSERT INTO jobs (topic, fire_at, "+column+") VALUES ('t', now(), $1)", "a"+string(c)); err == nil || !strings.Contains(err.Error(), column+" must be") {
				t.Errorf("%U in %s: %v", c, column, err)
			}
		}
	}
}

// TestInsertJobsKnowsItsMembers: a misspelled member is refused, as a column is in an INSERT, and not left
// out: without fire_at a job would be due now.
func TestInsertJobsKnowsItsMembers(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	for list, want := range map[string]string{
		`[{"topic": "t"}, {"topic": "t", "fireAt": "2030-01-01T00:00:00Z"}]`: `insert_jobs does not know the member "fireAt" (SQLSTATE 42703)`,
		`[{"topic": "t", "processed": false}]`:                               `insert_jobs does not know the member "processed" (SQLSTATE 42703)`,
		`{"topic": "t"}`:                                                     "insert_jobs takes a JSON array of objects (SQLSTATE 22023)",
		`[1]`:                                                                "insert_jobs takes a JSON array of objects (SQLSTATE 22023)",
	} {
		_, err := b.conn.Exec(b.ctx, "SELECT reactor.insert_jobs($1::text::json)", list)
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", list, err, want)
		}
	}
	if n := b.count("SELECT count(*) FROM jobs"); n != 0 {
		t.Errorf("%d jobs are inserted", n)
	}
	b.exec("SELECT reactor.insert_jobs('[]')")
	if n := b.count("SELECT count(*) FROM reactor.insert_jobs('[{\"topic\": \"t\", \"qos\": 1}, {\"topic\": \"t\", \"payload\": null}]')"); n != 2 {
		t.Errorf("%d jobs are inserted, want 2", n)
	}
}
