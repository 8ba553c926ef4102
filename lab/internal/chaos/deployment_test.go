package chaos

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
)

// startDeployment returns a deployment whose instances do not run, to test single faults.
func startDeployment(t *testing.T, cfg Config) (context.Context, *deployment) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	cfg.Program, cfg.Dir, cfg.Instances = testkit.Reactor(t), t.TempDir(), 1
	d, err := newDeployment(ctx, cfg.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.close(); err != nil {
			t.Error(err)
		}
	})
	return ctx, d
}

func execute(ctx context.Context, t *testing.T, d *deployment, sql string) error {
	t.Helper()
	return d.exec(ctx, d.adminURL, sql)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ask[T any](ctx context.Context, t *testing.T, d *deployment, sql string) (value T) {
	t.Helper()
	conn, err := pgx.Connect(ctx, d.adminURL)
	must(t, err)
	defer conn.Close(ctx)
	must(t, conn.QueryRow(ctx, sql).Scan(&value))
	return value
}

const insertThree = "INSERT INTO jobs (topic, fire_at) VALUES ('chaos/1', now()), ('chaos/2', now()), ('chaos/3', now())"

// TestRowsCannotBeChanged: every obstacle blocks changes of the topic's rows, and only of these,
// until unblockRows. Rows can always be inserted.
func TestRowsCannotBeChanged(t *testing.T) {
	t.Parallel()
	ctx, d := startDeployment(t, Config{Settings: SettingsPlain})
	for _, what := range obstacles {
		must(t, execute(ctx, t, d, insertThree))
		must(t, d.blockRows(ctx, what, []string{"chaos/2", "chaos/4"}))
		must(t, execute(ctx, t, d, insertThree))
		must(t, execute(ctx, t, d, "UPDATE jobs SET processed = true WHERE topic = 'chaos/1'"))
		claimed := execute(ctx, t, d, "UPDATE jobs SET processed = true, claim = gen_random_uuid() WHERE NOT processed AND topic IN ('chaos/2', 'chaos/3')")
		if n := claimedRows(ctx, t, d, "chaos/2"); n > 0 {
			t.Errorf("%s: %d blocked rows can be claimed", what.name, n)
		}
		if n := claimedRows(ctx, t, d, "chaos/3"); claimed == nil && n == 0 {
			t.Errorf("%s: other rows were not changed either, without an error", what.name)
		}
		must(t, d.unblockRows(ctx))
		must(t, execute(ctx, t, d, "UPDATE jobs SET processed = true, claim = NULL"))
	}
	must(t, d.unblockRows(ctx)) // a second call is not an error
}

func claimedRows(ctx context.Context, t *testing.T, d *deployment, topic string) int {
	t.Helper()
	return ask[int](ctx, t, d, "SELECT count(*) FROM jobs WHERE processed AND claim IS NOT NULL AND topic = '"+topic+"'")
}

// TestRowsOnTheirWayAreLocked: holdRows locks the rows that were claimed just now, and no others.
func TestRowsOnTheirWayAreLocked(t *testing.T) {
	t.Parallel()
	ctx, d := startDeployment(t, Config{Settings: SettingsPlain, Faults: []string{"lockjob"}})
	must(t, execute(ctx, t, d, insertThree))
	must(t, execute(ctx, t, d, "UPDATE jobs SET processed = true, processed_at = clock_timestamp() WHERE topic = 'chaos/1'"))
	must(t, execute(ctx, t, d, "UPDATE jobs SET processed = true, processed_at = clock_timestamp() - interval '1 h' WHERE topic = 'chaos/2'"))
	holding, release := context.WithCancel(ctx)
	locked, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- d.holdRows(holding, time.Minute, func() { close(locked) }) }()
	<-locked
	err := execute(ctx, t, d, "SELECT FROM jobs WHERE topic = 'chaos/1' FOR UPDATE NOWAIT")
	if pgErr := (*pgconn.PgError)(nil); !errors.As(err, &pgErr) || pgErr.Code != "55P03" {
		t.Errorf("a claimed row is not locked: %v", err)
	}
	must(t, execute(ctx, t, d, "SELECT FROM jobs WHERE topic <> 'chaos/1' FOR UPDATE NOWAIT"))
	release()
	must(t, <-done)
	must(t, execute(ctx, t, d, "SELECT FROM jobs FOR UPDATE NOWAIT"))
	if d.rowsLocked != 1 {
		t.Errorf("%d rows were counted as locked, want 1", d.rowsLocked)
	}
}

// TestFailoverLosesTheLastCommits: the new primary is reached at the same addresses, and a failover
// can be repeated.
func TestFailoverLosesTheLastCommits(t *testing.T) {
	t.Parallel()
	ctx, d := startDeployment(t, Config{Settings: SettingsPlain, Faults: []string{"failover"}})
	for round := range 2 {
		must(t, execute(ctx, t, d, insertThree))
		must(t, d.standby.CatchUp(ctx, d.primary()))
		before := d.primary()
		lost := make(chan error, 1)
		go func() {
			lost <- func() error {
				conn, err := pgx.Connect(ctx, d.adminURL)
				if err != nil {
					return err
				}
				defer conn.Close(ctx)
				for { // until this primary is killed
					if _, err := conn.Exec(ctx, "INSERT INTO jobs (topic, fire_at) VALUES ('late', now())"); err != nil {
						return nil
					}
				}
			}()
		}()
		must(t, d.failover(ctx, 200*time.Millisecond))
		must(t, <-lost)
		if d.primary() == before {
			t.Fatal("the primary is the old one")
		}
		if got := ask[int](ctx, t, d, "SELECT count(*) FROM jobs WHERE topic <> 'late'"); got != 3*(round+1) {
			t.Errorf("%d streamed rows are in the new primary, want %d", got, 3*(round+1))
		}
		if span := d.losses[round]; !span.to.After(span.from) {
			t.Errorf("the time of the lost commits is empty: %v", span)
		}
		conn, err := pgx.Connect(ctx, d.instances[0].database.Through(d.databaseURL))
		must(t, err)
		must(t, conn.Close(ctx))
	}
	if len(d.losses) != 2 || d.failovers != 2 || d.standby == nil {
		t.Errorf("%d losses, %d failovers", len(d.losses), d.failovers)
	}
}

// TestBrokerComesBackWithItsSave: the save contains the subscriber's session, and the kills are
// counted.
func TestBrokerComesBackWithItsSave(t *testing.T) {
	t.Parallel()
	ctx, d := startDeployment(t, Config{Settings: SettingsPlain, Faults: []string{"brokerkill"}})
	subscriber, err := d.subscribe(ctx)
	must(t, err)
	defer subscriber.Close()
	must(t, d.killBroker(ctx, true, 0, 0))
	must(t, d.killBroker(ctx, false, 0, 10*time.Millisecond))
	must(t, check.Mark(ctx, d.broker.URL(), markerTopic, markerID))
	must(t, subscriber.WaitFor(ctx, markerID))
	if p := subscriber.Progress(); p.SessionsLost != 0 || p.Reconnects == 0 {
		t.Errorf("%d sessions lost, %d reconnects", p.SessionsLost, p.Reconnects)
	}
	if got := d.trace.kills(); got != 2 {
		t.Errorf("%d kills, want 2", got)
	}
}

// TestHostileSettingsAreLegal: the server accepts all of them together, and they apply to the
// instances' role only.
func TestHostileSettingsAreLegal(t *testing.T) {
	t.Parallel()
	ctx, d := startDeployment(t, Config{Settings: SettingsPlain})
	for _, s := range hostileSettings {
		must(t, execute(ctx, t, d, "ALTER ROLE app SET "+s.name+" = "+settingValue(s.name, s.value)))
	}
	conn, err := pgx.Connect(ctx, d.databaseURL)
	must(t, err)
	defer conn.Close(ctx)
	var isolation, commit, path string
	must(t, conn.QueryRow(ctx, `SELECT current_setting('default_transaction_isolation'), current_setting('synchronous_commit'),
		current_setting('search_path')`).Scan(&isolation, &commit, &path))
	if isolation != "serializable" || commit != "off" || path != "nobodys_schema, public" {
		t.Errorf("isolation %s, synchronous_commit %s, search_path %s", isolation, commit, path)
	}
	if got := ask[string](ctx, t, d, "SHOW synchronous_commit"); got != "on" {
		t.Errorf("the load's synchronous_commit is %s", got)
	}
}

// TestPoolerIsBetween: instances reach the database through the pooler, except for LISTEN.
func TestPoolerIsBetween(t *testing.T) {
	t.Parallel()
	ctx, d := startDeployment(t, Config{Settings: SettingsPlain, Pooler: stack.PoolTransaction})
	pids := func(p *netfault.Proxy) (protocol, sql uint32) {
		cfg, err := pgx.ParseConfig(p.Through(d.databaseURL))
		must(t, err)
		cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
		conn, err := pgx.ConnectConfig(ctx, cfg)
		must(t, err)
		defer conn.Close(ctx)
		must(t, conn.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&sql))
		return conn.PgConn().PID(), sql
	}
	if protocol, sql := pids(d.instances[0].database); protocol == sql {
		t.Errorf("the connection does not go through a pooler: protocol and SQL give the same process id %d", sql)
	}
	if protocol, sql := pids(d.instances[0].direct); protocol != sql {
		t.Errorf("the direct connection goes through a pooler: process ids %d and %d", protocol, sql)
	}
}

func TestSettingsDependOnTheSeedOnly(t *testing.T) {
	hostile, different := 0, map[string]bool{}
	for seed := range uint64(300) {
		list := roleSettings(Config{Seed: seed, Settings: SettingsBySeed})
		if len(list) > 0 {
			hostile++
		}
		different[strings.Join(list, "\n")] = true
		if again := roleSettings(Config{Seed: seed, Settings: SettingsBySeed}); strings.Join(again, "") != strings.Join(list, "") {
			t.Fatalf("seed %d: two calls gave different settings", seed)
		}
		if len(roleSettings(Config{Seed: seed, Settings: SettingsHostile})) == 0 || roleSettings(Config{Seed: seed, Settings: SettingsPlain}) != nil {
			t.Errorf("seed %d: SettingsHostile gave no settings, or SettingsPlain gave some", seed)
		}
	}
	if hostile < 70 || hostile > 130 || len(different) < 50 {
		t.Errorf("%d of 300 seeds are hostile, in %d ways", hostile, len(different))
	}
}

// TestDescribeStuck: every diagnostic query is valid, and the finding names what waits.
func TestDescribeStuck(t *testing.T) {
	t.Parallel()
	ctx, d := startDeployment(t, Config{Settings: SettingsPlain})
	must(t, execute(ctx, t, d, insertThree))
	conn, err := pgx.Connect(ctx, d.adminURL)
	must(t, err)
	defer conn.Close(ctx)
	d.await(ctx, conn, "something impossible", 100*time.Millisecond, "SELECT false")
	findings := d.allFindings()
	if len(findings) != 1 {
		t.Fatalf("findings %q", findings)
	}
	text := findings[0]
	for _, want := range []string{"for something impossible", `waiting jobs: {"jobs":3,"overdue":3`, `without an owner: {"shards":64`} {
		if !strings.Contains(text, want) {
			t.Errorf("the finding does not contain %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "ERROR") {
		t.Errorf("a diagnostic query failed:\n%s", text)
	}
}

// TestDefaultFaultsBreakNoPromise: faults for which the checks accept losses or repetitions must be
// asked for.
func TestDefaultFaultsBreakNoPromise(t *testing.T) {
	if text := strings.Join(DefaultFaults(), " "); strings.Contains(text, "failover") || strings.Contains(text, "brokerkill") || !strings.Contains(text, "blackhole") {
		t.Errorf("the default faults are %s", text)
	}
	if len(FaultNames()) != len(DefaultFaults())+2 {
		t.Errorf("%d faults, of which %d are default; want 2 more than the default", len(FaultNames()), len(DefaultFaults()))
	}
}
