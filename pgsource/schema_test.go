package pgsource_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
)

// TestVerbatimStatement runs the statement that the users of the system we replace
// have in their scripts.
func TestVerbatimStatement(t *testing.T) {
	b := newBench(t)
	b.exec(`INSERT INTO jobs (topic, payload, fire_at, processed, processed_at)
SELECT 'job/test/topic', '{"Job": "' || x.test_data || '"}', now(), false, null
FROM generate_series(1,20000) AS x(test_data);`)
	if n := b.count(`SELECT count(*) FROM jobs WHERE NOT processed AND shard BETWEEN 0 AND 63`); n != 20000 {
		t.Fatalf("%d rows", n)
	}
	// The stored column distributes rows evenly enough over the shards.
	if n := b.count(`SELECT max(n) FROM (SELECT count(*) n FROM jobs GROUP BY shard) s`); n > 20000/64*3/2 {
		t.Fatalf("the fullest of 64 shards has %d of 20,000 jobs", n)
	}
}

func TestBadRowsAreRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for name, test := range map[string]struct{ topic, payload, fireAt, want string }{
		"empty topic":       {"''", "''", "now()", "topic must be 1 to 65535 bytes"},
		"null topic":        {"NULL", "''", "now()", `null value in column "topic"`},
		"plus":              {"'a/+/b'", "''", "now()", "wildcards"},
		"hash":              {"'a/#'", "''", "now()", "wildcards"},
		"too long":          {"repeat('x', 65536)", "''", "now()", "topic must be 1 to 65535 bytes"},
		"too long in bytes": {"repeat('ü', 32768)", "''", "now()", "topic must be 1 to 65535 bytes"},
		"control character": {`E'a\x01'`, "''", "now()", "control"},
		"non-character":     {`U&'a\FFFE'`, "''", "now()", "control or non-characters"},
		"nul":               {`E'a\x00'`, "''", "now()", "0x00"},
		"nul in payload":    {"'a'", `E'\x00'`, "now()", "0x00"},
		"null payload":      {"'a'", "NULL", "now()", `null value in column "payload"`},
		"payload too large": {"'a'", "repeat('x', 268435456)", "now()", "fit in an MQTT packet"},
		"null fire_at":      {"'a'", "''", "NULL", `null value in column "fire_at"`},
		"infinite fire_at":  {"'a'", "''", "'infinity'", "fire_at must be finite"},
		"-infinite fire_at": {"'a'", "''", "'-infinity'", "fire_at must be finite"},
	} {
		_, err := b.conn.Exec(b.ctx, "INSERT INTO jobs (topic, payload, fire_at) VALUES ("+test.topic+", "+test.payload+", "+test.fireAt+")")
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || !strings.Contains(pgErr.Message, test.want) {
			t.Errorf("%s: %v, want a message with %q", name, err, test.want)
		}
	}
	b.exec(`INSERT INTO jobs (topic, payload, fire_at) VALUES
		(repeat('x', 65535), '', now()), ('$SYS/ü/日本', repeat('x', 100000), '4713-01-01 BC'), ('/', 'x', '9999-01-01')`)
}

func TestMigrations(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	url := emptyDatabase(t, ctx)

	// Many instances start at once.
	var wg sync.WaitGroup
	var mu sync.Mutex
	applied := 0
	for range 8 {
		wg.Go(func() {
			names, err := pgsource.MigrateUp(ctx, url)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			applied += len(names)
			mu.Unlock()
		})
	}
	wg.Wait()
	states, err := pgsource.MigrateStatus(ctx, url)
	if err != nil || len(states) != applied {
		t.Fatalf("%d applied of %+v: %v", applied, states, err)
	}
	for _, s := range states {
		if s.AppliedAt.IsZero() {
			t.Errorf("version %d is pending", s.Version)
		}
	}
	for i := len(states) - 1; i >= 0; i-- {
		plan, err := pgsource.PlanDown(ctx, url)
		if err != nil {
			t.Fatal(err)
		}
		if name, err := pgsource.MigrateDown(ctx, url, plan); err != nil || name != states[i].Name {
			t.Fatalf("undid %q, want %q: %v", name, states[i].Name, err)
		}
	}
	if plan, err := pgsource.PlanDown(ctx, url); err != nil || plan.Name != "" {
		t.Fatalf("an empty database has %+v to undo: %v", plan, err)
	}
	if _, err := pgsource.MigrateUp(ctx, url); err != nil {
		t.Fatalf("up again: %v", err)
	}
}

func emptyDatabase(t *testing.T, ctx context.Context) string {
	t.Helper()
	url := testkit.NewDatabase(t)
	conn := connect(t, ctx, url)
	if _, err := conn.Exec(ctx, "DROP TABLE jobs; DROP SCHEMA reactor CASCADE"); err != nil {
		t.Fatal(err)
	}
	return url
}

func TestOpenExplains(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	url := testkit.NewDatabase(t)
	conn := connect(t, ctx, url)
	if _, err := conn.Exec(ctx, "CREATE ROLE nobody LOGIN PASSWORD 'sesame'"); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ url, want string }{
		"no schema":  {emptyDatabase(t, ctx), "reactor migrate up"},
		"no rights":  {url + "&user=nobody&password=sesame", "GRANT"},
		"no such db": {strings.Replace(url, "/test_", "/nothing_", 1), "create the database"},
		"no server":  {"postgres://nobody:sesame@127.0.0.1:1/x", "is PostgreSQL running"},
	} {
		s, err := pgsource.New(pgsource.Config{DatabaseURL: test.url})
		if err != nil {
			t.Fatal(err)
		}
		err = s.Open(ctx)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: %v, want one line with %q and no password", name, err, test.want)
		}
	}
	if _, err := pgsource.New(pgsource.Config{DatabaseURL: "postgres://u:sesame@host:port/x"}); err == nil || strings.Contains(err.Error(), "sesame") {
		t.Errorf("a malformed URL: %v, want an error without the password", err)
	}
	if _, err := conn.Exec(ctx, "DROP ROLE nobody"); err != nil {
		t.Fatal(err)
	}
}
