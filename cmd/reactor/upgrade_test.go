package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/testkit"
)

// TestRollingUpgrade: five instances of the last released version are replaced one by one by this one, while jobs
// fire; then some of the old ones come back, and the schema is undone beside them, as docs/upgrading.md says. No job is
// lost, or published twice, or early, and the upgrade makes none late.
func TestRollingUpgrade(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	version, released := testkit.Released(t)
	database, conn := bareDatabase(t, ctx)
	mqtt := broker(t)
	judge := subscribe(t, ctx, mqtt, "roll/#")
	run := func(program, name string, args ...string) *testkit.Process {
		t.Helper()
		return testkit.Run(t, testkit.ProcessConfig{
			Path: program, Args: append([]string{"run", "--name", name}, args...),
			Env: []string{"REACTOR_DATABASE_URL=" + database, "REACTOR_MQTT_URL=" + mqtt},
		})
	}
	stop := func(p *testkit.Process) {
		t.Helper()
		p.Terminate(t)
		if code := p.Wait(t, time.Minute); code != 0 {
			t.Errorf("exit code %d:\n%s", code, p.Output())
		}
	}
	migrate := func(want string, args ...string) {
		t.Helper()
		if code, output := call(t, nil, append(append([]string{"migrate"}, args...), "--database-url", database)...); code != 0 || !strings.Contains(output, want) {
			t.Fatalf("migrate %v ended with %d, and without %q:\n%s", args, code, want, output)
		}
	}

	const instances = 5
	var old, upgraded []*testkit.Process
	for i := range instances {
		old = append(old, run(released, fmt.Sprint("old-", i)))
	}
	until(t, ctx, conn, "SELECT to_regclass('reactor.shards') IS NOT NULL")
	until(t, ctx, conn, "SELECT count(DISTINCT owner) = $1 FROM reactor.shards", instances)
	load := produce(t, ctx, database)

	migrate("applied observed", "up")
	for i := range instances {
		name := fmt.Sprint("new-", i)
		upgraded = append(upgraded, run(testkit.Reactor(t), name, "--no-migrate", "--http-addr", "off"))
		until(t, ctx, conn, "SELECT EXISTS (SELECT FROM reactor.instances WHERE name = $1 AND (snapshot ->> 'ready')::boolean)", name)
		stop(old[i])
	}
	until(t, ctx, conn, "SELECT bool_and(name LIKE 'new-%') AND count(DISTINCT owner) = $1 FROM reactor.shards LEFT JOIN reactor.instances ON id = owner", instances)

	for i := range 2 {
		name := fmt.Sprint("back-", i)
		old = append(old, run(released, name, "--no-migrate"))
		until(t, ctx, conn, "SELECT EXISTS (SELECT FROM reactor.shards JOIN reactor.instances ON id = owner WHERE name = $1)", name)
	}
	for _, p := range upgraded {
		stop(p)
	}
	migrate("undid observed", "down")
	load()
	for _, p := range old[instances:] {
		defer stop(p)
	}

	expected, err := check.ExpectedFromDB(ctx, conn, "true")
	if err != nil {
		t.Fatal(err)
	}
	if err := judge.WaitDistinct(ctx, len(expected)); err != nil {
		t.Errorf("%v: %+v", err, judge.Progress())
	}
	report := check.Compare(expected, judge.Received(), check.Config{})
	if err := report.Err(); err != nil {
		t.Error(err)
	}
	p99 := report.LatenessAt(99)
	t.Logf("%d jobs from %s to this version and back: p50 %v, p99 %v, at most %v late", len(expected), version, report.LatenessAt(50), p99, report.MaxLateness)
	if p99 > time.Second {
		t.Errorf("p99 of the lateness is %v", p99)
	}
}

// TestVersionsRecoverEachOther: what an instance of the released version had on its way when it was killed, one of this
// version takes over, and the other way round: every job is published once.
func TestVersionsRecoverEachOther(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	_, released := testkit.Released(t)
	database, mqtt := testkit.NewDatabase(t), broker(t)
	conn, judge := connect(t, ctx, database), subscribe(t, ctx, mqtt, "roll/#")
	run := func(program string) *testkit.Process {
		t.Helper()
		return testkit.Run(t, testkit.ProcessConfig{
			Path: program, Args: []string{"run", "--no-migrate"},
			Env: []string{"REACTOR_DATABASE_URL=" + database, "REACTOR_MQTT_URL=" + mqtt},
		})
	}
	const jobs = 2000
	for round, programs := range [][2]string{{released, testkit.Reactor(t)}, {testkit.Reactor(t), released}} {
		first := run(programs[0])
		until(t, ctx, conn, "SELECT count(DISTINCT owner) = 1 FROM reactor.shards WHERE owner IN (SELECT id FROM reactor.instances)")
		exec(t, ctx, conn, "INSERT INTO jobs (topic, payload, fire_at) SELECT 'roll/' || n % 50, n::text, now() + n * interval '2 ms' FROM generate_series(1, $1::integer) n", jobs)
		if err := judge.WaitDistinct(ctx, round*jobs+jobs/8); err != nil {
			t.Fatal(err)
		}
		first.Kill(t)
		var left int
		if err := conn.QueryRow(ctx, "SELECT coalesce(sum(cardinality(job_ids)), 0) FROM reactor.in_flight").Scan(&left); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d jobs were on their way", left)
		second := run(programs[1])
		waitLine(t, ctx, second, `"running"`) // before that a signal ends it at once
		if err := judge.WaitDistinct(ctx, (round+1)*jobs); err != nil {
			t.Fatalf("%v: %+v", err, judge.Progress())
		}
		second.Terminate(t)
		if code := second.Wait(t, time.Minute); code != 0 {
			t.Errorf("exit code %d:\n%s", code, second.Output())
		}
	}
	expected, err := check.ExpectedFromDB(ctx, conn, "true")
	if err != nil {
		t.Fatal(err)
	}
	if err := check.Compare(expected, judge.Received(), check.Config{}).Err(); err != nil {
		t.Error(err)
	}
}

// TestRunBesideStrangers: an instance that would not be understood does not start, and says in one line what to do.
func TestRunBesideStrangers(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database := testkit.NewDatabase(t)
	conn := connect(t, ctx, database)
	exec(t, ctx, conn, "INSERT INTO reactor.instances (id, name, backends, dynamic, version, protocol_oldest, protocol, heartbeat_at) VALUES (7, 'later', 'later', true, 'v9.9.9', 8, 9, now() + interval '1 hour')")
	code, output := call(t, nil, "run", "--database-url", database, "--mqtt-url", "mqtt://127.0.0.1:1", "--http-addr", "off")
	if code != 1 || !strings.Contains(output, "\nreactor: join: instance later (reactor v9.9.9) is running and speaks protocol 8 to 9, and this reactor understands 1 to 2: upgrade this one, or stop that one first\n") {
		t.Errorf("ended with %d:\n%s", code, output)
	}
	var n int
	if err := conn.QueryRow(ctx, "SELECT count(*) FROM reactor.instances").Scan(&n); err != nil || n != 1 {
		t.Errorf("there are %d instances, %v", n, err)
	}
}

// produce inserts two hundred jobs a second, due in a tenth of a second up to two seconds, until done is called. Some of
// them have an ordering key.
func produce(t *testing.T, ctx context.Context, database string) (done func()) {
	t.Helper()
	conn := connect(t, ctx, database)
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				ended <- nil
				return
			case <-tick.C:
			}
			if _, err := conn.Exec(ctx, `
				INSERT INTO jobs (topic, payload, fire_at, ordering_key)
				SELECT 'roll/' || n, clock_timestamp()::text, clock_timestamp() + interval '100 ms' + random() * interval '1900 ms', CASE WHEN n = 1 THEN 'key ' || (random() * 20)::integer END
				  FROM generate_series(1, 10) n`); err != nil {
				ended <- err
				return
			}
		}
	}()
	done = sync.OnceFunc(func() {
		close(stop)
		if err := <-ended; err != nil {
			t.Errorf("insert: %v", err)
		}
	})
	t.Cleanup(done) // before the connection is closed
	return done
}

// until waits until a query returns true.
func until(t *testing.T, ctx context.Context, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var ok bool
		if err := conn.QueryRow(ctx, sql, args...).Scan(&ok); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("it does not happen: %s %v", sql, args)
		}
	}
}
