package pgsource_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// TestSettingsOfTheRole: each of these, as a role's default, has broken something.
func TestSettingsOfTheRole(t *testing.T) {
	for _, setting := range []string{
		"default_transaction_isolation = 'repeatable read'",
		"default_transaction_isolation = 'serializable'",
		"default_transaction_deferrable = on",
		"synchronous_commit = off",
		"synchronous_commit = local",
		"statement_timeout = 1",
		"lock_timeout = 1",
		"idle_in_transaction_session_timeout = 50",
		"idle_in_transaction_session_timeout = 1",
		"idle_session_timeout = 50",
		"idle_session_timeout = 1",
		"row_security = off",
		"DateStyle = 'SQL, DMY'",
		"IntervalStyle = sql_standard",
		"client_encoding = LATIN1",
		"client_encoding = EUC_JP",
		"work_mem = 64",
		"max_parallel_workers_per_gather = 8",
		"search_path = ''",
		"enable_indexscan = off",
		"enable_tidscan = off",
		"enable_nestloop = off",
		"array_nulls = off",
		"bytea_output = escape",
		"extra_float_digits = -15",
		"TimeZone = 'Asia/Kathmandu'",
		"plan_cache_mode = force_custom_plan",
		"standard_conforming_strings = off",
		"transform_null_equals = on",
		"quote_all_identifiers = on",
	} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			b := examine(t, testkit.NewDatabase(t))
			role, url := b.role("")
			b.grant(role)
			b.exec("ALTER ROLE " + role + " SET " + setting)
			b.start(url)
			b.wholePath()
			if b.Pooled() {
				t.Error("a pooler is found where there is none")
			}
			for kind, values := range b.Settings(t, b.ctx) {
				for name, want := range map[string]string{
					"search_path": "pg_catalog, pg_temp", "transaction_isolation": "read committed",
					"default_transaction_isolation": "read committed", "default_transaction_deferrable": "off",
					"row_security": "off", "client_encoding": "UTF8", "idle_session_timeout": "0",
					"DateStyle": "ISO, YMD", "IntervalStyle": "postgres", "enable_seqscan": "off", "enable_indexscan": "on",
					"enable_tidscan": "on", "enable_nestloop": "on", "array_nulls": "on", "plan_cache_mode": "auto",
				} {
					if values[name] != want {
						t.Errorf("%s: %s is %q, want %q", kind, name, values[name], want)
					}
				}
				asynchronous := strings.HasPrefix(kind, "control") || strings.HasPrefix(kind, "background")
				if got := values["synchronous_commit"]; got != "on" && !(asynchronous && got == "off") {
					t.Errorf("%s: synchronous_commit is %s", kind, got)
				}
				if kind != "listen" && (values["statement_timeout"] == "1ms" || values["statement_timeout"] == "0") {
					t.Errorf("%s: statement_timeout is %s", kind, values["statement_timeout"])
				}
				if values["idle_in_transaction_session_timeout"] == "50ms" && kind != "listen" || kind != "listen" && values["lock_timeout"] == "1ms" {
					t.Errorf("%s: %v", kind, values)
				}
			}
		})
	}
}

// wholePath runs all statements of a source on some jobs.
func (b *bench) wholePath() {
	b.t.Helper()
	ids := b.insert(5, "-1 second")
	pending, err := b.LoadIDs(b.ctx, driver.AllShards, ids, driver.DistantPast, b.now(), true)
	if err != nil || len(pending) != 5 {
		b.t.Fatalf("loaded %+v, %v", pending, err)
	}
	if window, _, err := b.LoadWindow(b.ctx, cursors(driver.DistantPast), b.now(), 1000); err != nil || len(window) != 5 {
		b.t.Fatalf("the window has %+v, %v", window, err)
	}
	req := b.request(ids)
	batch, err := b.Claim(b.ctx, req)
	if err != nil || len(batch.Jobs) != 5 {
		b.t.Fatalf("claimed %d, %v", len(batch.Jobs), err)
	}
	resolved, lease, ok, err := b.ResolveClaim(b.ctx, req)
	if err != nil || !ok || len(resolved.Jobs) != 5 {
		b.t.Fatalf("resolved to %t with %d jobs, %v", ok, len(resolved.Jobs), err)
	}
	b.lease = lease
	if err := b.Reopen(b.ctx, lease, 1, "mark"); err != nil {
		b.t.Fatal(err)
	}
	if got := b.recoverOne(); len(got.Jobs) != 5 || string(got.Jobs[4].Payload) != "payload 5" {
		b.t.Fatalf("recovered %+v", got)
	}
	// One is refused, one is unsent, the others are published.
	b.settle(driver.Settlement{
		BatchID: batch.ID, Token: batch.Token, Lease: lease, Jobs: 5, Kept: 4, Concluded: 4, Done: true,
		Failures: []driver.Failure{{JobID: batch.Jobs[0].ID, Code: 0x87, Reason: "not authorized"}},
	})
	if n := b.count("SELECT count(*) FROM jobs WHERE NOT processed"); n != 2 {
		b.t.Errorf("%d jobs are back, want 2", n)
	}
	if err := b.Quarantine(b.ctx, []driver.BadJob{{ID: batch.Jobs[0].ID, Why: &driver.JobError{Reason: "a reason"}}}); err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.member.Beat(b.ctx); err != nil {
		b.t.Fatal(err)
	}
	b.published(b.claim(ids))
	if n := b.count("SELECT (SELECT count(*) FROM reactor.in_flight) + (SELECT count(*) FROM reactor.failed_jobs)"); n != 0 {
		b.t.Errorf("%d batches and failed jobs are left", n)
	}
}

// TestSettingsThatWait: a session that is idle, or waits, for longer than the role allows.
func TestSettingsThatWait(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	role, url := b.role("")
	b.grant(role)
	b.exec("ALTER ROLE " + role + " SET idle_session_timeout = 100")
	b.start(url)
	var before []int32 // a pool may open more of them meanwhile
	if err := b.conn.QueryRow(b.ctx, "SELECT array_agg(pid) FROM pg_stat_activity WHERE usename = $1", role).Scan(&before); err != nil {
		t.Fatal(err)
	}
	b.exec("SELECT pg_sleep(0.3)")
	var ended int
	if err := b.conn.QueryRow(b.ctx, "SELECT count(*) FROM unnest($1::int[]) AS p WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = p)", before).Scan(&ended); err != nil {
		t.Fatal(err)
	}
	if len(before) == 0 || ended > 0 {
		t.Errorf("the server has ended %d of %d connections for being idle", ended, len(before))
	}
	b.wholePath()
}

// TestRefusedSettings: settings that we cannot change, or must not.
func TestRefusedSettings(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	role, url := b.role("")
	b.grant(role)
	for setting, want := range map[string]string{
		"session_replication_role = replica": "ALTER ROLE … RESET session_replication_role",
		"default_transaction_read_only = on": "the database is read-only",
	} {
		b.exec("ALTER ROLE " + role + " SET " + setting)
		if why := b.refused(pgsource.Config{DatabaseURL: url}); !strings.Contains(why, want) {
			t.Errorf("%s: %s, want %q", setting, why, want)
		}
		b.exec("ALTER ROLE " + role + " RESET ALL")
	}
	b.exec("ALTER ROLE " + role + " SET default_transaction_read_only = on")
	b.exec("DROP TABLE jobs; DROP SCHEMA reactor CASCADE")
	if _, err := pgsource.MigrateUp(b.ctx, url); err == nil || !strings.Contains(err.Error(), "the database is read-only") {
		t.Errorf("migrating says %v", err)
	}
}

// TestReplicaForASuperuser: a superuser may change session_replication_role, and we do.
func TestReplicaForASuperuser(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	role, url := b.role("SUPERUSER")
	b.exec("ALTER ROLE " + role + " SET session_replication_role = replica")
	b.start(url)
	b.wholePath()
}

// TestMigrateWithSettings: the migration works with the same settings.
func TestMigrateWithSettings(t *testing.T) {
	for _, settings := range [][]string{
		{"statement_timeout = 1", "default_transaction_isolation = 'serializable'", "synchronous_commit = off"},
		{"idle_session_timeout = 1", "lock_timeout = 1"},
		{"idle_in_transaction_session_timeout = 1", "array_nulls = off"},
		{"DateStyle = 'German, DMY'", "IntervalStyle = sql_standard", "TimeZone = 'Asia/Kathmandu'"},
		{"client_encoding = EUC_JP"}, // which does not have the characters of our comments
		{"client_encoding = SJIS", "standard_conforming_strings = off", "quote_all_identifiers = on"},
		{"work_mem = 64", "search_path = 'elsewhere, pg_catalog'"},
	} {
		t.Run(strings.Join(settings, ", "), func(t *testing.T) {
			t.Parallel()
			b := examine(t, testkit.NewDatabase(t))
			b.exec("DROP TABLE jobs; DROP SCHEMA reactor CASCADE")
			role, url := b.role("")
			b.exec("GRANT CREATE ON SCHEMA public TO " + role)
			b.exec("DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO " + role + "', current_database()); END $$")
			for _, setting := range settings {
				b.exec("ALTER ROLE " + role + " SET " + setting)
			}
			for range 2 {
				b.migrateUp(url)
			}
			if states, err := pgsource.MigrateStatus(b.ctx, url); err != nil || time.Since(states[0].AppliedAt).Abs() > time.Hour {
				t.Errorf("the status is %v, %v", states, err)
			}
			b.start(url)
			b.wholePath()
			if err := b.member.Leave(b.ctx); err != nil {
				t.Fatal(err)
			}
			plan, err := pgsource.PlanDown(b.ctx, url)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := pgsource.MigrateDown(b.ctx, url, plan); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestUnknownOutcomeUnderRepeatableRead: the claim's commit is still running while the claim is
// resolved. With a snapshot from before that commit, its jobs would be marked and never published.
func TestUnknownOutcomeUnderRepeatableRead(t *testing.T) {
	t.Parallel()
	for _, isolation := range []string{"repeatable read", "serializable"} {
		t.Run(isolation, func(t *testing.T) {
			b := examine(t, testkit.NewDatabase(t))
			role, url := b.role("")
			b.grant(role)
			b.exec(fmt.Sprintf("ALTER ROLE %s SET default_transaction_isolation = '%s'", role, isolation))
			proxy := testkit.NewProxy(t, url)
			b.start(proxy.Through(url))
			ids := b.insert(5, "-1 second")

			// The claim waits at its very end, for somebody who reads.
			b.exec(`CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END $$;
				CREATE TRIGGER wait AFTER UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION wait()`)
			tx, err := b.conn.Begin(b.ctx)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(b.ctx, "SELECT pg_advisory_xact_lock(1)"); err != nil {
				t.Fatal(err)
			}
			req := b.request(ids)
			done := false
			proxy.SetHook(func(c netfault.Chunk) netfault.Verdict {
				switch {
				case c.Direction != netfault.ToServer:
				case !done && bytes.Contains(c.Data, req.Token[:]):
					done = true
					return netfault.Verdict{Forward: len(c.Data), Then: netfault.FaultCut}
				case c.Offset == 0 && bytes.HasPrefix(c.Data, cancelRequest):
					return netfault.Verdict{Then: netfault.FaultCut}
				}
				return netfault.Verdict{Forward: len(c.Data)}
			})
			_, err = b.Claim(b.ctx, req)
			var unknown *driver.UnknownError
			if !errors.As(err, &unknown) {
				t.Fatalf("the claim says %v, want an unknown outcome", err)
			}
			type resolution struct {
				batch driver.Batch
				ok    bool
				err   error
			}
			resolved := make(chan resolution, 1)
			go func() {
				batch, _, ok, err := b.ResolveClaim(b.ctx, req)
				resolved <- resolution{batch, ok, err}
			}()
			other := connect(t, b.ctx, b.url)
			b.until(other, "the resolution to wait for the claim", "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'")
			if err := tx.Commit(b.ctx); err != nil {
				t.Fatal(err)
			}
			r := <-resolved
			claimed := b.count("SELECT count(*) FROM jobs WHERE processed")
			if r.err != nil || r.ok != (claimed == 5) || r.ok && len(r.batch.Jobs) != 5 {
				t.Errorf("resolved to %t with %d jobs, %v; %d are claimed", r.ok, len(r.batch.Jobs), r.err, claimed)
			}
			if claimed != 5 {
				t.Errorf("%d jobs are claimed, the test shows nothing", claimed)
			}
		})
	}
}

// cancelRequest is how pgx ends the statement of a connection that broke, where it can: over
// another one.
var cancelRequest = []byte{0, 0, 0, 16, 4, 210, 22, 46}

// until waits until a query returns true.
func (b *bench) until(conn *pgx.Conn, what, sql string, args ...any) {
	b.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var ok bool
		if err := conn.QueryRow(b.ctx, sql, args...).Scan(&ok); err != nil {
			b.t.Fatalf("%s: %v", what, err)
		}
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-b.ctx.Done():
			b.t.Fatalf("%s: it does not happen", what)
		}
	}
}
