package main

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/producer"
)

// bareDatabase is a database in which there is nothing of the default deployment, so that a statement that
// forgets the names of its own fails.
func bareDatabase(t *testing.T, ctx context.Context) (url string, conn *pgx.Conn) {
	t.Helper()
	url = testkit.NewDatabase(t)
	conn = connect(t, ctx, url)
	exec(t, ctx, conn, "DROP TABLE jobs; DROP SCHEMA reactor CASCADE; CREATE SCHEMA app")
	return url, conn
}

// leftovers are the objects of a database that have a name of the default deployment, or functions that
// mention it.
const leftovers = `
	SELECT coalesce(array_agg(name ORDER BY name), '{}') FROM (
	    SELECT 'relation ' || oid::regclass::text FROM pg_class WHERE relname ~ '^(jobs|reactor)(_|$)'
	    UNION ALL SELECT 'schema reactor' FROM pg_namespace WHERE nspname = 'reactor'
	    UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgname ~ '^(jobs|reactor)(_|$)'
	    UNION ALL SELECT 'publication ' || pubname FROM pg_publication WHERE pubname ~ '^(jobs|reactor)(_|$)'
	    UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database() AND slot_name ~ '^(jobs|reactor)(_|$)'
	    UNION ALL SELECT 'function ' || p.oid::regproc::text FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
	               WHERE nspname !~ '^(pg_|information_schema)' AND regexp_replace(prosrc, '--[^\n]*', '', 'g') ~ '\mreactor[._]|''reactor|%I\.jobs|\mjobs_(?!schema|table)') AS found (name)`

func noLeftovers(t *testing.T, ctx context.Context, conn *pgx.Conn) {
	t.Helper()
	var found []string
	if err := conn.QueryRow(ctx, leftovers).Scan(&found); err != nil {
		t.Fatal(err)
	}
	if len(found) > 0 {
		t.Errorf("these have the default names: %s", strings.Join(found, ", "))
	}
}

// TestLifeWithOtherNames: everything that the program does, with another schema and another table.
func TestLifeWithOtherNames(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database, conn := bareDatabase(t, ctx)
	mqtt := broker(t)
	names := []string{"REACTOR_SCHEMA=zq", "REACTOR_JOBS_TABLE=app.zt"}
	run := func(want string, args ...string) string {
		t.Helper()
		code, output := call(t, names, append(args, "--database-url", database)...)
		if code != 0 || !strings.Contains(output, want) {
			t.Fatalf("%v ended with %d, and without %q:\n%s", args, code, want, output)
		}
		return output
	}
	instance := func(args ...string) *testkit.Process {
		t.Helper()
		return start(t, database, mqtt, append(args, "--schema", "zq", "--jobs-table", "app.zt")...)
	}
	stop := func(p *testkit.Process) {
		t.Helper()
		p.Terminate(t)
		if code := p.Wait(t, 30*time.Second); code != 0 {
			t.Errorf("exit code %d:\n%s", code, p.Output())
		}
		if output := p.Output(); strings.Contains(output, "SQLSTATE") || strings.Contains(output, `"level":"ERROR"`) {
			t.Errorf("a statement has failed:\n%s", output)
		}
	}

	run("applied managed", "migrate", "up")
	run("nothing to do", "migrate")
	run("7        observed", "migrate", "status")
	noLeftovers(t, ctx, conn)

	judge := subscribe(t, ctx, mqtt, "life/#")
	total := 0
	published := func(n int) {
		t.Helper()
		total += n
		if err := judge.WaitDistinct(ctx, total); err != nil {
			t.Fatalf("%v: %+v", err, judge.Progress())
		}
	}
	insert := func(n int, due string) {
		t.Helper()
		exec(t, ctx, conn, "INSERT INTO app.zt (topic, payload, fire_at, ordering_key) SELECT 'life/' || n, 'p', now() + $2::interval + n * interval '1 ms', CASE WHEN n % 10 = 0 THEN 'key' || n % 3 END FROM generate_series(1, $1::integer) n", n, due)
		published(n)
	}

	// Each feed, each of which is announced to both instances.
	p, q := instance("--retain", "1m", "--http-addr", "127.0.0.1:0", "--loop-frequency", "100ms"), instance("--loop-frequency", "100ms")
	address := "http://" + httpAddress(t, ctx, p)
	heard := func(feed string) {
		t.Helper()
		for {
			_, metrics := get(t, ctx, address+"/metrics")
			if strings.Contains(metrics, `reactor_feed{kind="`+feed+`"} 1`) {
				return
			}
			if ctx.Err() != nil {
				t.Fatalf("the instance does not learn of new jobs by %s", feed)
			}
		}
	}
	heard("notify")
	insert(300, "-10 ms")
	run("the triggers are dropped", "migrate", "feed", "wal")
	heard("wal")
	noLeftovers(t, ctx, conn)
	insert(300, "100 ms")
	run("the publications are dropped", "migrate", "feed", "notify")
	heard("notify")
	insert(300, "0 ms")
	stop(q)

	// Producers, the functions, schedules, and what operators do.
	db := producer.Pgx(conn, producer.Schema("zq"))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := producer.Insert(ctx, db, producer.Job{Topic: "life/insert"})
	must(err)
	_, err = producer.InsertMany(ctx, conn, slices.Values([]producer.Job{{Topic: "life/many"}, {Topic: "life/many"}}), producer.Schema("zq"))
	must(err)
	_, outcome, err := producer.Schedule(ctx, db, producer.Job{Topic: "life/key", Key: "k", FireAt: time.Now().Add(time.Hour)})
	must(err)
	if outcome != producer.Scheduled {
		t.Error(outcome)
	}
	_, err = producer.Insert(ctx, db, producer.Job{Topic: "life/key", Key: "k"})
	if err == nil || !strings.Contains(err.Error(), "Schedule replaces that one") {
		t.Errorf("a key that is taken: %v", err)
	}
	if outcome, err := producer.FireNow(ctx, db, producer.Key("k")); outcome != producer.DueNow {
		t.Error(outcome, err)
	}
	published(4)
	_, err = producer.UpsertSchedule(ctx, db, producer.Recurring{Name: "yearly", Cron: "0 0 1 1 *", Topic: "life/schedule"})
	must(err)
	_, err = producer.RunSchedule(ctx, db, "yearly")
	must(err)
	published(1)
	run("added tick", "schedules", "add", "tick", "--cron", "* * * * * *", "--topic", "life/tick")
	published(2)
	run("tick", "schedules", "list")
	run("tick", "schedules", "show", "tick")
	run("Z", "schedules", "next", "tick")
	run("paused tick", "schedules", "pause", "tick")
	run("resumed tick", "schedules", "resume", "tick")
	run("deleted tick", "schedules", "delete", "tick")
	// Occurrences until then may still arrive.
	must(producer.DeleteSchedule(ctx, db, "yearly"))

	exec(t, ctx, conn, "INSERT INTO app.zt (id, topic, fire_at, key) VALUES (100001, 'later', now() + interval '1 h', 'later'), (100002, 'later', now() + interval '1 h', NULL)")
	run("later", "jobs", "list", "--state", "waiting")
	run("later", "jobs", "show", "100001")
	run("rescheduled", "jobs", "reschedule", "100001", "--at", "+2h")
	run("cancelled", "jobs", "cancel", "--key", "later")
	run("due now", "jobs", "fire", "100002")
	exec(t, ctx, conn, "INSERT INTO app.zt (id, topic, fire_at, processed, processed_at, claim) SELECT 200000 + n, 'old', now() - interval '2 days', true, now() - interval '2 days', gen_random_uuid() FROM generate_series(1, 20) n")
	exec(t, ctx, conn, "INSERT INTO zq.failed_jobs (job_id, attempts, code, reason, claim) SELECT id, 1, 135, 'no', claim FROM app.zt WHERE id = 200001")
	run("200001", "jobs", "list", "--state", "failed")
	run("", "jobs", "retry", "200001")
	// The running instance deletes the rows by an index of its own, or the command does.
	run("", "jobs", "purge", "--older-than", "24h", "--yes")
	stop(p)
	noLeftovers(t, ctx, conn)

	// Partitions.
	total = judge.Progress().Distinct // with the occurrences, and what was fired and retried
	run("the table has", "partitions", "convert")
	run("made the partition app.zt_p", "partitions", "maintain", "--ahead", "9")
	run("app.zt_default", "partitions", "status")
	noLeftovers(t, ctx, conn)
	p = instance("--retain-partitions", "24h")
	exec(t, ctx, conn, "INSERT INTO app.zt (topic, fire_at) SELECT 'life/part', now() - interval '5 ms' FROM generate_series(1, 50) n")
	published(50)
	if _, outcome, err := producer.Schedule(ctx, db, producer.Job{Topic: "life/key", Key: "p"}); outcome != producer.Scheduled {
		t.Error(outcome, err)
	}
	published(1)
	run("the triggers are dropped", "migrate", "feed", "wal")
	run("the publications are dropped", "migrate", "feed", "notify")
	stop(p)
	noLeftovers(t, ctx, conn)

	// Back. The schema of a deployment that is undone is empty.
	exec(t, ctx, conn, "DELETE FROM zq.instances")
	for range 7 {
		run("undid", "migrate", "down", "--yes")
	}
	run("nothing to undo", "migrate", "down")
	var rest int
	if err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'app' OR nspname = 'zq' AND relname !~ '^schema_version'").Scan(&rest); err != nil || rest != 0 {
		t.Errorf("%d relations are left, %v", rest, err)
	}
	run("applied managed", "migrate", "up")

	seen := map[int64]bool{}
	for _, message := range judge.Received() {
		if seen[message.ID] && message.ID < 200000 {
			t.Errorf("job %d was published twice", message.ID)
		}
		seen[message.ID] = true
	}
}

// TestNamesAreRefused: in one line, before anything is changed, with the flag or variable to correct.
func TestNamesAreRefused(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database, conn := bareDatabase(t, ctx)
	run := func(wantCode int, want string, args ...string) {
		t.Helper()
		code, output := call(t, nil, append(args, "--database-url", database)...)
		said := slices.DeleteFunc(lines(output), func(line string) bool { return strings.HasPrefix(line, "{") }) // the log
		if code != wantCode || !strings.Contains(output, want) || wantCode != 0 && len(said) != 1 {
			t.Errorf("%v ended with %d, want %d and %q:\n%s", args, code, wantCode, want, output)
		}
	}
	run(2, "--schema is Q,", "migrate", "--schema", "Q")
	run(2, "--jobs-table is app.order, must not use order, which is a word of SQL", "migrate", "--jobs-table", "app.order")
	run(1, "there is no schema nowhere for the table of jobs", "migrate", "--jobs-table", "nowhere.jobs", "--schema", "zq")
	run(0, "applied managed", "migrate", "--schema", "zq", "--jobs-table", "app.zt")

	// The table of another deployment, by whatever it is known.
	taken := "the table app.zt is that of the deployment in schema zq"
	run(1, taken, "migrate", "--schema", "zr", "--jobs-table", "app.zt")
	exec(t, ctx, conn, "DROP TRIGGER zq_jobs_inserted ON app.zt; DROP TRIGGER zq_jobs_updated ON app.zt")
	run(1, taken, "migrate", "--schema", "zr", "--jobs-table", "app.zt")
	run(0, "the triggers are there", "migrate", "feed", "notify", "--schema", "zq", "--jobs-table", "app.zt")

	// Another table than the deployment's.
	run(2, "--jobs-table is app.zu, must be app.zt, the table of the deployment in schema zq", "migrate", "--schema", "zq", "--jobs-table", "app.zu")
	run(2, "--jobs-table must be app.zt, the table of the deployment in schema zq", "migrate", "--schema", "zq")
	run(2, "--jobs-table is public.zt, must be app.zt", "jobs", "list", "--schema", "zq", "--jobs-table", "public.zt")
	run(2, "--jobs-table is zu, must be app.zt", "schedules", "list", "--schema", "zq", "--jobs-table", "zu")
	run(2, "must be app.zt", "partitions", "--schema", "zq", "--jobs-table", "zu")
	run(2, "must be app.zt", "run", "--mqtt-url", "mqtt://localhost:1", "--schema", "zq", "--jobs-table", "zu")
	run(2, "must be app.zt", "run", "--mqtt-url", "mqtt://localhost:1", "--schema", "zq", "--jobs-table", "zu", "--no-migrate")

	// A schema without a deployment.
	run(1, "", "jobs", "list", "--schema", "zr")
	run(1, "run `reactor migrate up`", "run", "--mqtt-url", "mqtt://localhost:1", "--schema", "zr", "--no-migrate")
	exec(t, ctx, conn, "CREATE SCHEMA shop; CREATE TABLE shop.orders (id bigint); CREATE TABLE shop.deployment (id bigint)")
	run(1, "the schema shop has tables of somebody else", "migrate", "--schema", "shop", "--jobs-table", "app.zu")
	// A table, and an index, of somebody else.
	// No search path leads to another table than the one that was named.
	run(1, "there is a table shop.orders already, and it is not reactor's: name another table as --jobs-table, one that is not there yet", "migrate", "--schema", "zr", "--jobs-table", "shop.orders")
	run(1, "there is a table app.zt_key already", "migrate", "--schema", "zr", "--jobs-table", "app.zt_key")
	exec(t, ctx, conn, "CREATE VIEW app.zv_ordered AS SELECT 1")
	run(1, "there is a relation app.zv_ordered already", "migrate", "--schema", "zr", "--jobs-table", "app.zv")

	var schemas int
	if err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_namespace WHERE nspname IN ('zr', 'reactor')").Scan(&schemas); err != nil || schemas != 0 {
		t.Errorf("a refused migration has left %d schemas, %v", schemas, err)
	}
	// Beside all that there is room for the default deployment.
	run(0, "applied managed", "migrate")
	run(0, "nothing to do", "migrate", "--jobs-table", "public.jobs")
}
