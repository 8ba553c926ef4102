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

// deployment is a world whose instances do not run: for the faults by themselves.
func deployment(t *testing.T, cfg Config) (context.Context, *world) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	cfg.Program, cfg.Dir, cfg.Instances = testkit.Reactor(t), t.TempDir(), 1
	w, err := newWorld(ctx, cfg.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	})
	return ctx, w
}

func execute(ctx context.Context, t *testing.T, w *world, sql string) error {
	t.Helper()
	return w.exec(ctx, w.adminURL, sql)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ask[T any](ctx context.Context, t *testing.T, w *world, sql string) (value T) {
	t.Helper()
	conn, err := pgx.Connect(ctx, w.adminURL)
	must(t, err)
	defer conn.Close(ctx)
	must(t, conn.QueryRow(ctx, sql).Scan(&value))
	return value
}

const insertThree = "INSERT INTO jobs (topic, fire_at) VALUES ('chaos/1', now()), ('chaos/2', now()), ('chaos/3', now())"

// TestRowsCannotBeChanged: those of the topic, by either means, until the cure; and rows
// can be inserted all the time.
func TestRowsCannotBeChanged(t *testing.T) {
	t.Parallel()
	ctx, w := deployment(t, Config{Settings: SettingsPlain})
	for _, what := range obstacles {
		must(t, execute(ctx, t, w, insertThree))
		must(t, w.poison(ctx, what, []string{"chaos/2", "chaos/4"}))
		must(t, execute(ctx, t, w, insertThree))
		must(t, execute(ctx, t, w, "UPDATE jobs SET processed = true WHERE topic = 'chaos/1'"))
		claimed := execute(ctx, t, w, "UPDATE jobs SET processed = true, claim = gen_random_uuid() WHERE NOT processed AND topic IN ('chaos/2', 'chaos/3')")
		if n := claimedRows(ctx, t, w, "chaos/2"); n > 0 {
			t.Errorf("%s: %d poisoned rows can be claimed", what.name, n)
		}
		if n := claimedRows(ctx, t, w, "chaos/3"); claimed == nil && n == 0 {
			t.Errorf("%s: keeps other rows as well, without a word", what.name)
		}
		must(t, w.cure(ctx))
		must(t, execute(ctx, t, w, "UPDATE jobs SET processed = true, claim = NULL"))
	}
	must(t, w.cure(ctx)) // twice is no error
}

func claimedRows(ctx context.Context, t *testing.T, w *world, topic string) int {
	t.Helper()
	return ask[int](ctx, t, w, "SELECT count(*) FROM jobs WHERE processed AND claim IS NOT NULL AND topic = '"+topic+"'")
}

// TestRowsOnTheirWayAreLocked: what was claimed just now, and nothing else.
func TestRowsOnTheirWayAreLocked(t *testing.T) {
	t.Parallel()
	ctx, w := deployment(t, Config{Settings: SettingsPlain, Faults: []string{"lockjob"}})
	must(t, execute(ctx, t, w, insertThree))
	must(t, execute(ctx, t, w, "UPDATE jobs SET processed = true, processed_at = clock_timestamp() WHERE topic = 'chaos/1'"))
	must(t, execute(ctx, t, w, "UPDATE jobs SET processed = true, processed_at = clock_timestamp() - interval '1 h' WHERE topic = 'chaos/2'"))
	holding, release := context.WithCancel(ctx)
	locked, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- w.holdRows(holding, time.Minute, func() { close(locked) }) }()
	<-locked
	err := execute(ctx, t, w, "SELECT FROM jobs WHERE topic = 'chaos/1' FOR UPDATE NOWAIT")
	if pgErr := (*pgconn.PgError)(nil); !errors.As(err, &pgErr) || pgErr.Code != "55P03" {
		t.Errorf("a claimed row is free: %v", err)
	}
	must(t, execute(ctx, t, w, "SELECT FROM jobs WHERE topic <> 'chaos/1' FOR UPDATE NOWAIT"))
	release()
	must(t, <-done)
	must(t, execute(ctx, t, w, "SELECT FROM jobs FOR UPDATE NOWAIT"))
	if w.rowsLocked != 1 {
		t.Errorf("%d rows counted, want 1", w.rowsLocked)
	}
}

// TestFailoverLosesTheLastCommits: behind the same addresses, and again and again.
func TestFailoverLosesTheLastCommits(t *testing.T) {
	t.Parallel()
	ctx, w := deployment(t, Config{Settings: SettingsPlain, Faults: []string{"failover"}})
	for round := range 2 {
		must(t, execute(ctx, t, w, insertThree))
		must(t, w.standby.CatchUp(ctx, w.primary()))
		before := w.primary()
		lost := make(chan error, 1)
		go func() {
			lost <- func() error {
				conn, err := pgx.Connect(ctx, w.adminURL)
				if err != nil {
					return err
				}
				defer conn.Close(ctx)
				for { // until the end of this primary
					if _, err := conn.Exec(ctx, "INSERT INTO jobs (topic, fire_at) VALUES ('late', now())"); err != nil {
						return nil
					}
				}
			}()
		}()
		must(t, w.failover(ctx, 200*time.Millisecond))
		must(t, <-lost)
		if w.primary() == before {
			t.Fatal("the primary is the old one")
		}
		if got := ask[int](ctx, t, w, "SELECT count(*) FROM jobs WHERE topic <> 'late'"); got != 3*(round+1) {
			t.Errorf("%d rows that were streamed are there, want %d", got, 3*(round+1))
		}
		if span := w.losses[round]; !span.to.After(span.from) {
			t.Errorf("no time in which commits were lost: %v", span)
		}
		conn, err := pgx.Connect(ctx, w.instances[0].database.Through(w.databaseURL))
		must(t, err)
		must(t, conn.Close(ctx))
	}
	if len(w.losses) != 2 || w.failovers != 2 || w.standby == nil {
		t.Errorf("%d losses, %d failovers", len(w.losses), w.failovers)
	}
}

// TestBrokerComesBackWithItsSave: the judge's session is in it, and a life is counted.
func TestBrokerComesBackWithItsSave(t *testing.T) {
	t.Parallel()
	ctx, w := deployment(t, Config{Settings: SettingsPlain, Faults: []string{"brokerkill"}})
	subscriber, err := w.subscribe(ctx)
	must(t, err)
	defer subscriber.Close()
	must(t, w.killBroker(ctx, true, 0, 0))
	must(t, w.killBroker(ctx, false, 0, 10*time.Millisecond))
	must(t, check.Mark(ctx, w.broker.URL(), markerTopic, markerID))
	must(t, subscriber.WaitFor(ctx, markerID))
	if p := subscriber.Progress(); p.SessionsLost != 0 || p.Reconnects == 0 {
		t.Errorf("%d sessions lost, %d reconnects", p.SessionsLost, p.Reconnects)
	}
	if got := w.ledger.kills(); got != 2 {
		t.Errorf("%d kills, want 2", got)
	}
}

// TestHostileSettingsAreLegal: the server takes them all, at once, and they hold for the
// instances' role only.
func TestHostileSettingsAreLegal(t *testing.T) {
	t.Parallel()
	ctx, w := deployment(t, Config{Settings: SettingsPlain})
	for _, s := range hostileSettings {
		must(t, execute(ctx, t, w, "ALTER ROLE app SET "+s.name+" = "+settingValue(s.name, s.value)))
	}
	conn, err := pgx.Connect(ctx, w.databaseURL)
	must(t, err)
	defer conn.Close(ctx)
	var isolation, commit, path string
	must(t, conn.QueryRow(ctx, `SELECT current_setting('default_transaction_isolation'), current_setting('synchronous_commit'),
		current_setting('search_path')`).Scan(&isolation, &commit, &path))
	if isolation != "serializable" || commit != "off" || path != "nobodys_schema, public" {
		t.Errorf("isolation %s, synchronous_commit %s, search_path %s", isolation, commit, path)
	}
	if got := ask[string](ctx, t, w, "SHOW synchronous_commit"); got != "on" {
		t.Errorf("the load's synchronous_commit is %s", got)
	}
}

// TestPoolerIsBetween: instances reach the database through it, and LISTEN past it.
func TestPoolerIsBetween(t *testing.T) {
	t.Parallel()
	ctx, w := deployment(t, Config{Settings: SettingsPlain, Pooler: stack.PoolTransaction})
	pid := func(p *netfault.Proxy) (protocol, sql uint32) {
		cfg, err := pgx.ParseConfig(p.Through(w.databaseURL))
		must(t, err)
		cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
		conn, err := pgx.ConnectConfig(ctx, cfg)
		must(t, err)
		defer conn.Close(ctx)
		must(t, conn.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&sql))
		return conn.PgConn().PID(), sql
	}
	if protocol, sql := pid(w.instances[0].database); protocol == sql {
		t.Errorf("no pooler between: the server process is %d by both accounts", sql)
	}
	if protocol, sql := pid(w.instances[0].direct); protocol != sql {
		t.Errorf("a pooler on the direct way: %d and %d", protocol, sql)
	}
}

func TestSettingsAreTheSeeds(t *testing.T) {
	hostile, different := 0, map[string]bool{}
	for seed := range uint64(300) {
		list := surroundings(Config{Seed: seed, Settings: SettingsBySeed})
		if len(list) > 0 {
			hostile++
		}
		different[strings.Join(list, "\n")] = true
		if again := surroundings(Config{Seed: seed, Settings: SettingsBySeed}); strings.Join(again, "") != strings.Join(list, "") {
			t.Fatalf("seed %d: two answers", seed)
		}
		if len(surroundings(Config{Seed: seed, Settings: SettingsHostile})) == 0 || surroundings(Config{Seed: seed, Settings: SettingsPlain}) != nil {
			t.Errorf("seed %d: it was to be hostile, or plain", seed)
		}
	}
	if hostile < 70 || hostile > 130 || len(different) < 50 {
		t.Errorf("%d of 300 seeds are hostile, in %d ways", hostile, len(different))
	}
}

// TestWhatIsStuckIsSaid: every question is understood, and what waits is named.
func TestWhatIsStuckIsSaid(t *testing.T) {
	t.Parallel()
	ctx, w := deployment(t, Config{Settings: SettingsPlain})
	must(t, execute(ctx, t, w, insertThree))
	conn, err := pgx.Connect(ctx, w.adminURL)
	must(t, err)
	defer conn.Close(ctx)
	w.await(ctx, conn, "a miracle", 100*time.Millisecond, "SELECT false")
	findings := w.allFindings()
	if len(findings) != 1 {
		t.Fatalf("findings %q", findings)
	}
	text := findings[0]
	for _, want := range []string{"in vain for a miracle", `waiting jobs: {"jobs":3,"overdue":3`, `owned by nobody: {"shards":64`} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "ERROR") {
		t.Errorf("a question was not understood:\n%s", text)
	}
}

// TestEverythingLeavesEveryPromiseStanding: what the judge is milder about must be asked for.
func TestEverythingLeavesEveryPromiseStanding(t *testing.T) {
	if text := strings.Join(Everything(), " "); strings.Contains(text, "failover") || strings.Contains(text, "brokerkill") || !strings.Contains(text, "blackhole") {
		t.Errorf("everything is %s", text)
	}
	if len(FaultNames()) != len(Everything())+2 {
		t.Errorf("%d faults, of which %d are everything", len(FaultNames()), len(Everything()))
	}
}
