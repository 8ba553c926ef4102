package pgsource_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// Obstacles for claims of single rows, and of the whole table.

// claimError returns why jobs cannot be claimed.
func (b *bench) claimError(ids []int64) error {
	b.t.Helper()
	_, err := b.Claim(b.ctx, b.request(ids))
	if err == nil {
		b.t.Fatal("the claim succeeds")
	}
	return err
}

// TestOneBadRow: the error of the claim says that a row caused it, so that the caller can halve the
// batch until one row is left.
func TestOneBadRow(t *testing.T) {
	t.Parallel()
	const raise = `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN IF OLD.topic = 't/300' THEN %s; END IF; RETURN NEW; END $$;
		CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION refuse()`
	for name, obstacle := range map[string]struct{ make, remove string }{
		"a constraint":          {"ALTER TABLE jobs ADD CONSTRAINT bad CHECK (topic <> 't/300') NOT VALID", "ALTER TABLE jobs DROP CONSTRAINT bad"},
		"an exception":          {fmt.Sprintf(raise, "RAISE EXCEPTION 'not this one'"), "DROP TRIGGER refuse ON jobs"},
		"a lock's SQLSTATE":     {fmt.Sprintf(raise, "RAISE EXCEPTION 'not this one' USING ERRCODE = '55P03'"), "DROP TRIGGER refuse ON jobs"},
		"a SQLSTATE of its own": {fmt.Sprintf(raise, "RAISE EXCEPTION 'not this one' USING ERRCODE = 'QQ001'"), "DROP TRIGGER refuse ON jobs"},
		"serialization's":       {fmt.Sprintf(raise, "RAISE EXCEPTION 'not this one' USING ERRCODE = '40001'"), "DROP TRIGGER refuse ON jobs"},
		"a lack of rights":      {fmt.Sprintf(raise, "RAISE insufficient_privilege"), "DROP TRIGGER refuse ON jobs"},
		"a division":            {fmt.Sprintf(raise, "PERFORM 1 / (length(OLD.topic) - 5)"), "DROP TRIGGER refuse ON jobs"},
		"a domain":              {"CREATE DOMAIN public.short AS text CHECK (length(VALUE) < 5); " + fmt.Sprintf(raise, "PERFORM OLD.topic::public.short"), "DROP TRIGGER refuse ON jobs"},
		"a missing table":       {fmt.Sprintf(raise, "PERFORM * FROM nowhere"), "DROP TRIGGER refuse ON jobs"},
		"a table without right": {fmt.Sprintf(raise, "SET LOCAL ROLE pg_monitor; PERFORM * FROM public.jobs"), "DROP TRIGGER refuse ON jobs"},
		"a commit":              {fmt.Sprintf(raise, "COMMIT"), "DROP TRIGGER refuse ON jobs"},
		"a cancelled statement": {fmt.Sprintf(raise, "PERFORM pg_cancel_backend(pg_backend_pid()); PERFORM pg_sleep(10)"), "DROP TRIGGER refuse ON jobs"},
		"the mark taken back":   {fmt.Sprintf(raise, "NEW.processed := OLD.processed"), "DROP TRIGGER refuse ON jobs"},
		"the signature":         {fmt.Sprintf(raise, "NEW.claim := OLD.claim"), "DROP TRIGGER refuse ON jobs"},
		"changed by itself":     {fmt.Sprintf(raise, "UPDATE public.jobs SET payload = 'mine' WHERE id = OLD.id AND payload <> 'mine'"), "DROP TRIGGER refuse ON jobs"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			ids := b.insert(512, "-1 second")
			b.exec(obstacle.make)
			bad, err := b.Sift(b.ctx, ids)
			for len(bad) == 0 && err == nil && b.ctx.Err() == nil { // the time for it was over before the row's turn
				bad, err = b.Sift(b.ctx, ids)
			}
			if err != nil || len(bad) != 1 || bad[0].ID != ids[299] || bad[0].Why.Reason == "" {
				t.Fatalf("sifted %v, %v; want %d", bad, err, ids[299])
			}
			if n := b.count("SELECT count(*) FROM jobs WHERE processed OR claim IS NOT NULL"); n != 0 {
				t.Fatalf("sifting has changed %d rows", n)
			}
			// As the claimer does where nothing is sifted.
			rest, tries := ids, 0
			for len(rest) > 1 {
				tries++
				_, err := b.Claim(b.ctx, b.request(rest[:len(rest)/2]))
				var about *driver.JobError
				switch {
				case errors.As(err, &about):
					rest = rest[:len(rest)/2]
				case err != nil:
					t.Fatalf("the claim says %v, which is not about a row", err)
				default:
					rest = rest[len(rest)/2:]
				}
			}
			var about *driver.JobError
			if err := b.claimError(rest); !errors.As(err, &about) || rest[0] != ids[299] || tries != 9 {
				t.Fatalf("after %d tries %v is left, %v; want %d", tries, rest, err, ids[299])
			}
			if about.Reason == "" || strings.Contains(about.Reason, "\n") {
				t.Errorf("the reason is %q", about.Reason)
			}
			if n := b.count("SELECT count(*) FROM jobs WHERE processed AND id = $1", rest[0]); n != 0 {
				t.Error("the bad row is marked")
			}
			for range 2 {
				if err := b.Quarantine(b.ctx, []driver.BadJob{{ID: rest[0], Why: about}}); err != nil {
					t.Fatal(err)
				}
			}
			if n := b.count("SELECT count(*) FROM reactor.failed_jobs WHERE job_id = $1 AND reason = $2 AND attempts = 0 AND claim IS NULL", rest[0], about.Reason); n != 1 {
				t.Error("the quarantined job is not recorded")
			}
			// The other jobs were not delayed, and this one is not quarantined for ever.
			b.exec(obstacle.remove)
			if batch := b.claim(rest); len(batch.Jobs) != 1 {
				t.Errorf("claimed %+v", batch)
			}
			if n := b.count("SELECT count(*) FROM reactor.failed_jobs"); n != 0 {
				t.Error("a job that is claimed is still a failed one")
			}
		})
	}
}

// TestSwallowedChange: a trigger that silently suppresses the change of a row is detected; a row
// that somebody has locked is not mistaken for that.
func TestSwallowedChange(t *testing.T) {
	for name, when := range map[string]string{
		"any":              "",
		"of the mark":      "WHEN (NEW.processed)",
		"of its time":      "WHEN (NEW.processed_at IS NOT NULL)",
		"of the signature": "WHEN (NEW.claim IS DISTINCT FROM OLD.claim)",
	} {
		t.Run(name, func(t *testing.T) { testSwallowedChange(t, when) })
	}
}

func testSwallowedChange(t *testing.T, when string) {
	b := newBench(t)
	ids := b.insert(4, "-1 second")
	b.exec(`CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN IF OLD.topic = 't/2' THEN RETURN NULL; END IF; RETURN NEW; END $$;
		CREATE TRIGGER swallow BEFORE UPDATE ON jobs FOR EACH ROW ` + when + ` EXECUTE FUNCTION swallow()`)
	if bad, err := b.Sift(b.ctx, ids); err != nil || len(bad) != 1 || bad[0].ID != ids[1] || !strings.Contains(bad[0].Why.Reason, "silently") {
		t.Errorf("sifted %v, %v", bad, err)
	}
	if batch := b.claim(ids); len(batch.Jobs) != 3 {
		t.Fatalf("claimed %+v", batch)
	}
	var about *driver.JobError
	if err := b.claimError(ids); !errors.As(err, &about) || !strings.Contains(about.Reason, "silently") {
		t.Errorf("the claim says %v", err)
	}
	holder := connect(t, b.ctx, b.url)
	if _, err := holder.Exec(b.ctx, "BEGIN; SELECT FROM jobs FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	if batch, err := b.Claim(b.ctx, b.request(ids)); err != nil || len(batch.Jobs) != 0 {
		t.Errorf("of locked rows it claims %+v, %v", batch, err)
	}
	if _, err := holder.Exec(b.ctx, "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	b.exec("DROP TRIGGER swallow ON jobs")
	if batch := b.claim(ids); len(batch.Jobs) != 1 {
		t.Errorf("claimed %+v", batch)
	}
}

// TestDamagedValue: a payload whose TOAST chunks are missing.
func TestDamagedValue(t *testing.T) {
	b := newBench(t)
	ids := b.insert(3, "-1 second")
	b.exec("ALTER TABLE jobs ALTER payload SET STORAGE EXTERNAL")
	b.exec("UPDATE jobs SET payload = repeat('x', 100000) WHERE id = $1", ids[1])
	b.exec("CREATE EXTENSION pg_surgery")
	b.exec(`DO $$ DECLARE toast regclass; pieces tid[]; BEGIN
		SELECT reltoastrelid INTO toast FROM pg_class WHERE oid = 'jobs'::regclass;
		EXECUTE format('SELECT array_agg(ctid) FROM %s', toast) INTO pieces;
		PERFORM heap_force_kill(toast, pieces);
	END $$`)
	var about *driver.JobError
	if err := b.claimError(ids); !errors.As(err, &about) {
		t.Errorf("the claim says %v", err)
	}
	if bad, err := b.Sift(b.ctx, ids); err != nil || len(bad) != 1 || bad[0].ID != ids[1] {
		t.Errorf("sifted %v, %v", bad, err)
	}
	if batch := b.claim([]int64{ids[0], ids[2]}); len(batch.Jobs) != 2 {
		t.Errorf("claimed %+v", batch)
	}
}

// TestNotAboutARow: errors that concern all rows. Halving the batch would quarantine every one of
// them.
func TestNotAboutARow(t *testing.T) {
	for name, sql := range map[string]string{
		"a missing table":  "ALTER TABLE jobs RENAME TO other",
		"a right":          "REVOKE UPDATE ON jobs FROM {role}",
		"the table locked": "",
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			role, url := b.role("")
			b.grant(role)
			ids := b.insert(2, "-1 second")
			s := open(t, b.ctx, pgsource.Config{DatabaseURL: url, MaxConns: 2, StatementTimeout: 300 * time.Millisecond})
			if sql != "" {
				b.exec(strings.ReplaceAll(sql, "{role}", role))
			}
			if sql == "" {
				tx, err := connect(t, b.ctx, b.url).Begin(b.ctx)
				if err != nil {
					t.Fatal(err)
				}
				defer tx.Rollback(b.ctx)
				if _, err := tx.Exec(b.ctx, "LOCK TABLE jobs"); err != nil {
					t.Fatal(err)
				}
			}
			_, err := s.Claim(b.ctx, b.request(ids))
			var about *driver.JobError
			if err == nil || errors.As(err, &about) {
				t.Errorf("the claim says %v, want an error that is not about a row", err)
			}
		})
	}
}

// TestSQLSTATEsOfAll: these concern a row only if a function of somebody else has raised them.
func TestSQLSTATEsOfAll(t *testing.T) {
	for _, code := range []string{"0A000", "40001", "40P01", "53000", "53100", "53200", "53300", "55P03", "57014", "57P01", "58030", "42P01", "42501", "42703", "25006", "25P02", "08006"} {
		err := &pgconn.PgError{SeverityUnlocalized: "ERROR", Code: code, Where: `while updating tuple (0,1) in relation "jobs"`, Routine: "ProcessInterrupts"}
		var about *driver.JobError
		if errors.As(pgsource.ClaimOutcome(err), &about) {
			t.Errorf("%s counts as being about a row", code)
		}
		err.Where = "PL/pgSQL-Funktion f() Zeile 1 bei SQL-Anweisung"
		lost := code == "25006" || code == "57P01" // of the whole connection
		if errors.As(pgsource.ClaimOutcome(err), &about) == lost {
			t.Errorf("%s in a trigger: about a row %v, want %v", code, !lost, lost)
		}
		err.Routine = "exec_stmt_raise"
		if !errors.As(pgsource.ClaimOutcome(err), &about) {
			t.Errorf("a trigger that raises %s does not count as being about a row", code)
		}
	}
}

// TestRowLockedWhileItFails: an application holds a lock on the row of a job that the broker has
// refused. Nothing waits for that; the job returns when the lock is released.
func TestRowLockedWhileItFails(t *testing.T) {
	b := newBench(t)
	ids := b.insert(3, "-1 second")
	held, other := b.claim(ids[:2]), b.claim(ids[2:])
	tx, err := connect(t, b.ctx, b.url).Begin(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(b.ctx, "SELECT FROM jobs WHERE id = $1 FOR UPDATE", ids[0]); err != nil {
		t.Fatal(err)
	}
	settlements := []driver.Settlement{
		{
			BatchID: held.ID, Token: held.Token, Lease: b.lease, Jobs: 2, Kept: 2, Concluded: 2, Done: true,
			Failures: []driver.Failure{{JobID: ids[0], Code: 0x87, Reason: "not authorized"}, {JobID: ids[1], Code: 0x87, Reason: "not authorized"}},
		},
		{BatchID: other.ID, Token: other.Token, Lease: b.lease, Jobs: 1, Kept: 1, Concluded: 1, Done: true},
	}
	start := time.Now()
	for range 2 { // an unknown outcome is settled again
		if _, err := b.Settle(b.ctx, settlements); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("settling took %v", took)
	}
	if n := b.count("SELECT count(*) FROM reactor.in_flight"); n != 0 {
		t.Errorf("%d batches are left", n)
	}
	if n := b.count("SELECT count(*) FROM jobs WHERE NOT processed AND id = $1", ids[1]); n != 1 {
		t.Error("the other refused job has not returned")
	}
	if n := b.count("SELECT count(*) FROM jobs WHERE NOT processed AND id = $1", ids[0]); n != 0 {
		t.Fatal("a locked row was changed")
	}
	// While it is locked, the search for notes does not wait either.
	if _, err := b.member.Beat(b.ctx); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(b.ctx); err != nil {
		t.Fatal(err)
	}
	b.eventually("the return", "SELECT NOT processed FROM jobs WHERE id = $1", ids[0])
	if n := b.count("SELECT count(*) FROM reactor.retries WHERE job_id = ANY ($1) AND attempts = 1 AND returned", ids); n != 2 {
		t.Errorf("%d of 2 jobs have one attempt", n)
	}
}

// TestManyLockedRows: rows that are locked for long must not hide others that wait.
func TestManyLockedRows(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ids := b.insert(1201, "-1 second")
	b.exec("UPDATE jobs SET processed = true, claim = gen_random_uuid()")
	b.exec("INSERT INTO reactor.retries (job_id, attempts, retry_at, code, reason, claim, returned) SELECT id, 1, now(), 135, '', claim, false FROM jobs")
	last := ids[len(ids)-1]
	tx, err := connect(t, b.ctx, b.url).Begin(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(b.ctx)
	if _, err := tx.Exec(b.ctx, "SELECT FROM jobs WHERE id < $1 FOR UPDATE", last); err != nil {
		t.Fatal(err)
	}
	b.eventually("the return of the one that is free", "SELECT NOT processed FROM jobs WHERE id = $1", last)
}

// TestRowThatRefusesToReturn: a trigger does not let the row become unprocessed. The other jobs of
// its settlement are settled, and this one ends as failed.
func TestRowThatRefusesToReturn(t *testing.T) {
	for why, reason := range map[string]string{
		"RAISE EXCEPTION 'no way back'": "no way back",
		"NEW.processed := true":         "a trigger takes the return back",
		"RETURN NULL":                   "silently keeps its row",
	} {
		t.Run(reason, func(t *testing.T) { testRowThatRefusesToReturn(t, why, reason) })
	}
}

func testRowThatRefusesToReturn(t *testing.T, why, reason string) {
	b := newBench(t)
	ids := b.insert(8, "-1 second")
	batch := b.claim(ids)
	b.exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN IF OLD.topic = 't/5' AND NOT NEW.processed THEN ` + why + `; END IF; RETURN NEW; END $$;
		CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION refuse()`)
	b.settle(driver.Settlement{BatchID: batch.ID, Token: batch.Token, Lease: b.lease, Jobs: 8, Kept: 3, Concluded: 3, Done: true})
	if n := b.count("SELECT count(*) FROM reactor.in_flight"); n != 0 {
		t.Errorf("%d batches are left", n)
	}
	// Both halves around it are returned: the error in one half does not keep the other from
	// returning.
	b.eventually("the end of the one, and the way back of all others", `
		SELECT EXISTS (SELECT FROM reactor.failed_jobs WHERE job_id = $1 AND reason LIKE '%' || $2 || '%')
		   AND NOT EXISTS (SELECT FROM reactor.retries)`, ids[4], reason)
	rows, err := b.conn.Query(b.ctx, "SELECT id FROM jobs WHERE NOT processed ORDER BY id")
	if err != nil {
		t.Fatal(err)
	}
	back, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil || !slices.Equal(back, []int64{ids[3], ids[5], ids[6], ids[7]}) {
		t.Errorf("%v are back, %v", back, err)
	}
	if n := b.count("SELECT count(*) FROM reactor.retries"); n != 0 {
		t.Errorf("%d notes are left", n)
	}
}

// TestLockedTable: neither the heartbeat nor a settlement waits for it, also if a claim that does
// occupies the connection that there was, and another one has to be opened.
func TestLockedTable(t *testing.T) {
	b := newBench(t)
	ids := b.insert(2, "-1 second")
	batch := b.claim(ids)
	request := b.request(b.insert(1, "-1 second"))
	tx, err := connect(t, b.ctx, b.url).Begin(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(b.ctx, "LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	claimed := make(chan struct{})
	go func() {
		defer close(claimed)
		_, _ = b.Claim(b.ctx, request) // ends with the lock, or before
	}()
	b.eventually("the claim waits for the table", `SELECT EXISTS (SELECT FROM pg_stat_activity
		WHERE datname = current_database() AND wait_event_type = 'Lock')`)
	start := time.Now()
	b.refuse(batch)
	if took := time.Since(start); took > 1500*time.Millisecond { // of a lock_timeout of 2 s
		t.Errorf("a settlement took %v", took)
	}
	// The chores of the first beat wait for the lock; none of the beats does.
	for range 20 {
		start := time.Now()
		if _, err := b.member.Beat(b.ctx); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 500*time.Millisecond {
			t.Errorf("a heartbeat took %v", took)
		}
	}
	if err := tx.Commit(b.ctx); err != nil {
		t.Fatal(err)
	}
	<-claimed
	b.eventually("the return", "SELECT count(*) = 2 FROM jobs WHERE NOT processed AND id = ANY($1)", ids)
}

// TestPurge: the counts of published jobs are deleted, all of them, and notes that are still needed
// stay.
func TestPurge(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.insert(4, "1 hour")
	b.exec(`UPDATE jobs SET claim = gen_random_uuid(), processed = id > 2;
		INSERT INTO reactor.retries (job_id, attempts, retry_at, code, reason, claim, returned)
		SELECT id, 1, now() - interval '1 hour', 135, '', claim, id IN (1, 3) FROM jobs;
		INSERT INTO reactor.retries (job_id, attempts, retry_at, code, reason, claim, returned)
		SELECT 1000 + n, 1, now() - interval '1 hour', 135, '', gen_random_uuid(), true FROM generate_series(1, 2500) n`)
	// 1 waits for its next attempt; 4 waits for its return, and returns; 3 came through; 2 was
	// made unprocessed by its owner; the rows of the others are gone.
	b.exec("UPDATE reactor.retries SET retry_at = now() WHERE job_id = 2")
	if err := b.Purge(b.ctx); err != nil {
		t.Fatal(err)
	}
	if n := b.count("SELECT count(*) FROM reactor.retries WHERE job_id > 1000 OR job_id = 3"); n != 0 {
		t.Errorf("%d notes are left that nobody needs", n)
	}
	b.eventually("the return", "SELECT NOT processed FROM jobs WHERE id = 4")
	if n := b.count("SELECT count(*) FROM reactor.retries WHERE job_id IN (1, 4) AND returned"); n != 2 {
		t.Errorf("%d of 2 notes are left", n)
	}
}

// TestTriggersOfOthers: they run with our search path, and a warning names them before one fails.
func TestTriggersOfOthers(t *testing.T) {
	b := newBench(t)
	if _, log := b.reopen(pgsource.Config{DatabaseURL: b.url}); strings.Contains(log, "triggers of others") {
		t.Errorf("without any it logs %q", log)
	}
	b.exec(`CREATE TABLE audit (id bigint);
		CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit VALUES (NEW.id); RETURN NEW; END $$;
		CREATE TRIGGER audited BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION audit()`)
	ids := b.insert(1, "-1 second")
	if _, log := b.reopen(pgsource.Config{DatabaseURL: b.url}); !strings.Contains(log, "audited (public.audit())") || !strings.Contains(log, "SET search_path") {
		t.Errorf("it logs %q", log)
	}
	b.claimError(ids)
	b.exec("ALTER FUNCTION audit() SET search_path = public")
	if _, log := b.reopen(pgsource.Config{DatabaseURL: b.url}); strings.Contains(log, "triggers of others") {
		t.Errorf("put right it logs %q", log)
	}
	if batch := b.claim(ids); len(batch.Jobs) != 1 {
		t.Errorf("claimed %+v", batch)
	}
}

// TestSiftLeavesLockedRows: a locked row is not a bad row, and the sift does not wait for it.
func TestSiftLeavesLockedRows(t *testing.T) {
	b := newBench(t)
	ids := b.insert(20, "-1 second")
	b.exec("ALTER TABLE jobs ADD CONSTRAINT bad CHECK (id % 2 = 0) NOT VALID")
	tx, err := connect(t, b.ctx, b.url).Begin(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(b.ctx)
	if _, err := tx.Exec(b.ctx, "SELECT FROM jobs WHERE id = ANY ($1) FOR UPDATE", ids[:10]); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	bad, err := b.Sift(b.ctx, ids)
	if err != nil || len(bad) != 5 {
		t.Errorf("sifted %v, %v; want 5 of those that are not locked", bad, err)
	}
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("that took %v", took)
	}
}

// triggerWaits makes each change of a row wait for a lock, until the returned function is called.
// It may be called twice.
func (b *bench) triggerWaits() (release func()) {
	b.t.Helper()
	b.exec("CREATE TABLE public.held (); CREATE FUNCTION public.waits() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN LOCK TABLE public.held; RETURN NEW; END $$;" +
		"CREATE TRIGGER waits BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION public.waits()")
	tx, err := connect(b.t, b.ctx, b.url).Begin(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := tx.Exec(b.ctx, "LOCK TABLE public.held"); err != nil {
		b.t.Fatal(err)
	}
	return func() { _ = tx.Rollback(b.ctx) }
}

// TestBriefClaim: a brief claim does not wait for what a trigger waits for, and reports that it has
// waited. The next claim on its connection has the usual limits again.
func TestBriefClaim(t *testing.T) {
	b := newBench(t)
	ids := b.insert(2, "-1 second")
	release := b.triggerWaits()
	defer release()
	req := b.request(ids)
	req.Briefly = true
	begun := time.Now()
	_, err := b.Claim(b.ctx, req)
	var about *driver.JobError
	if !errors.As(err, &about) || !about.Waited {
		t.Errorf("the claim says %v", err)
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("it took %v", took)
	}
	release()
	req = b.request(ids)
	req.Briefly = true
	if batch, err := b.Claim(b.ctx, req); err != nil || len(batch.Jobs) != 2 {
		t.Errorf("claimed %+v, %v", batch, err)
	}
	for kind, settings := range b.Settings(t, b.ctx) {
		if kind == "hot" && settings["lock_timeout"] != "2s" {
			t.Errorf("the lock_timeout is %s now", settings["lock_timeout"])
		}
	}
}

// TestSiftGivesUpInTime: if each of many rows has to wait for something, the sift returns the rows
// found by then, and keeps its connection.
func TestSiftGivesUpInTime(t *testing.T) {
	b := newBench(t)
	ids := b.insert(512, "-1 second")
	release := b.triggerWaits()
	defer release()
	begun := time.Now()
	bad, err := b.Sift(b.ctx, ids)
	took := time.Since(begun)
	if err != nil || len(bad) < 20 || !bad[0].Why.Waited {
		t.Errorf("sifted %d, %v", len(bad), err)
	}
	if took > 3*time.Second {
		t.Errorf("that took %v", took)
	}
	t.Logf("%d of %d in %v", len(bad), len(ids), took)
}

// TestBriefClaimOfWhatIsSlow: a brief claim waits for what takes long without a row being the
// cause. Otherwise it would never succeed while some row needs brief claims.
func TestBriefClaimOfWhatIsSlow(t *testing.T) {
	b := newBench(t)
	ids := b.insert(2, "-1 second")
	tx, err := connect(t, b.ctx, b.url).Begin(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(b.ctx)
	if _, err := tx.Exec(b.ctx, "SELECT FROM reactor.lanes FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	req := b.request(ids)
	req.Briefly = true
	claimed := make(chan error, 1)
	go func() {
		batch, err := b.Claim(b.ctx, req)
		if err == nil && len(batch.Jobs) != 2 {
			err = fmt.Errorf("claimed %+v", batch)
		}
		claimed <- err
	}()
	// It takes longer than a brief claim may.
	for waits := 0; waits == 0 && len(claimed) == 0; {
		waits = b.count(`SELECT count(*) FROM pg_stat_activity
			WHERE wait_event_type = 'Lock' AND datname = current_database() AND clock_timestamp() - state_change > interval '100 ms'`)
	}
	if err := tx.Rollback(b.ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-claimed; err != nil {
		t.Error(err)
	}
}
