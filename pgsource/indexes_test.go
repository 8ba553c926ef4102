package pgsource

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/testkit"
)

// TestPlansGoByIndex: each statement that reads jobs uses an index, in both variants, with a plan
// for its parameters and with a generic plan.
func TestPlansGoByIndex(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	database := testkit.NewDatabase(t)
	s, err := New(Config{DatabaseURL: database})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(ctx); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	owner := login(t, ctx, database, "")
	if _, err := owner.Exec(ctx, `
		CREATE TABLE heir (PRIMARY KEY (id)) INHERITS (jobs);
		CREATE INDEX ON heir (shard, fire_at, id) WHERE NOT processed;
		CREATE INDEX ON heir (key) WHERE NOT processed AND key IS NOT NULL;
		CREATE INDEX ON heir (key, id) WHERE processed AND key IS NOT NULL;
		INSERT INTO jobs (id, topic, fire_at, processed, claim)
		SELECT n, 't', now() + (n % 1000 - 500) * interval '1 minute', n % 2 = 0, CASE WHEN n % 2 = 0 THEN gen_random_uuid() END FROM generate_series(1, 200000) n;
		INSERT INTO heir (id, topic, fire_at) SELECT n, 't', now() + (n % 1000 - 500) * interval '1 minute' FROM generate_series(200001, 300000) n;
		INSERT INTO reactor.in_flight (lane, epoch, token, qos, first_slot, reach, job_ids)
		SELECT 1, 1, gen_random_uuid(), 2, 1, 512, ARRAY(SELECT g FROM generate_series(n * 500, n * 500 + 400) g) FROM generate_series(1, 20) n;
		INSERT INTO reactor.retries (job_id, attempts, retry_at, code, reason, claim, returned)
		SELECT id, 1, now() - interval '1 hour', 135, '', claim, id % 4 = 0 FROM jobs WHERE processed AND id < 20000`); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"", "jobs", "heir", "reactor.retries", "reactor.in_flight"} { // "": before anybody has analyzed
		if table != "" {
			if _, err := owner.Exec(ctx, "VACUUM ANALYZE "+table); err != nil {
				t.Fatal(err)
			}
			if table != "reactor.in_flight" {
				continue
			}
		}
		for _, tree := range []bool{false, true} {
			jobs := newTable(s.names, "public", tree)
			for name, sql := range map[string]string{
				"claim": jobs.claim, "load a window": jobs.loadWindow, "load a range": jobs.loadRange, "load ids": jobs.loadIDs,
				"journal": jobs.journal, "unsettled": jobs.unsettled, "hand back": jobs.handBack, "end what was replaced": jobs.replaced, "sift": jobs.sift, "purge": jobs.purge, "quarantine": jobs.quarantine, "settle": settleSQL, "beat": beatSQL,
			} {
				for _, mode := range []string{"force_generic_plan", "force_custom_plan"} {
					plan := planOf(t, ctx, s, sql, mode)
					tables := []string{" on jobs", " on heir"}
					if name != "journal" && name != "unsettled" { // are read by a recovery alone
						tables = append(tables, " on in_flight")
					}
					if why := readsAll(plan, tables); why != "" {
						t.Errorf("%s (tree: %t, analyzed: %t, %s) reads a whole table: %s\n%s", name, tree, table != "", mode, why, plan)
					}
				}
			}
		}
	}
}

// readsAll finds a scan of one of the tables that has no condition.
func readsAll(plan string, tables []string) string {
	lines := append(strings.Split(plan, "\n"), "")
	for i, line := range lines {
		table := false
		for _, name := range tables {
			table = table || strings.Contains(line, name+" ")
		}
		if !table || !strings.Contains(line, "Scan") || strings.Contains(line, "CTE Scan") {
			continue
		}
		if next := lines[i+1]; !strings.Contains(next, "Index Cond") && !strings.Contains(next, "TID Cond") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// planOf returns the plan of a statement on a connection with our settings.
func planOf(t *testing.T, ctx context.Context, s *Source, sql, mode string) (plan string) {
	t.Helper()
	values := map[string]string{
		"bigint": "7", "bigint[]": "'{6,8,10}'", "integer": "1", "smallint": "1", "smallint[]": "'{1,2}'", "integer[]": "'{1,2}'",
		"interval": "'1 second'", "text": "''", "text[]": "'{no,no,no}'", "uuid": "NULL", "uuid[]": "'{}'", "timestamp with time zone": "now()", "boolean": "true",
		"timestamp with time zone[]": "'{2020-01-01,2020-01-01}'",
	}
	err := s.work.tx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL plan_cache_mode = "+mode+"; PREPARE one AS "+sql); err != nil {
			return err
		}
		defer func() { _, _ = tx.Exec(ctx, "DEALLOCATE one") }()
		var types []string
		if err := tx.QueryRow(ctx, "SELECT parameter_types::text[] FROM pg_prepared_statements WHERE name = 'one'").Scan(&types); err != nil {
			return err
		}
		args := make([]string, len(types))
		for i, name := range types {
			if args[i] = values[name]; args[i] == "" {
				return fmt.Errorf("no value of type %s", name)
			}
		}
		rows, err := tx.Query(ctx, "EXPLAIN EXECUTE one("+strings.Join(args, ", ")+")", pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			return err
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		plan = strings.Join(lines, "\n")
		return err
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, sql)
	}
	return plan
}

// TestDeadNotesAreNotWalked: each claim checks whether there are retries. If an old snapshot keeps
// a million deleted rows of them, that check would take a second.
func TestDeadNotesAreNotWalked(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	database := testkit.NewDatabase(t)
	s, err := New(Config{DatabaseURL: database})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(ctx); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	owner := login(t, ctx, database, "")
	exec := func(sql string) {
		t.Helper()
		if _, err := owner.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	walks := func() bool {
		t.Helper()
		var lines []string
		if err := s.hot.rows(ctx, "EXPLAIN (ANALYZE, TIMING OFF) SELECT "+anyRetries, nil, func(rows pgx.Rows) (err error) {
			lines, err = pgx.CollectRows(rows, pgx.RowTo[string])
			return err
		}); err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			if strings.Contains(line, " on retries ") {
				return !strings.Contains(line, "never executed")
			}
		}
		t.Fatalf("the plan does not read the table: %q", lines)
		return false
	}
	if !walks() {
		t.Error("an empty table is not asked")
	}
	reader, err := login(t, ctx, database, "").BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Rollback(ctx)
	exec("INSERT INTO reactor.retries (job_id, attempts, retry_at, code, reason) SELECT n, 1, now(), 135, 'x' FROM generate_series(1, 20000) n")
	if _, err := reader.Exec(ctx, "SELECT FROM reactor.retries LIMIT 1"); err != nil {
		t.Fatal(err)
	}
	exec("DELETE FROM reactor.retries")
	if walks() {
		t.Error("dead rows are walked to find that there are none")
	}
}
