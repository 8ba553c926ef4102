package producer_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx" of database/sql

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/producer"
)

func TestMain(m *testing.M) { testkit.Main(m, testkit.WithMigrations(pgsource.MigrateUp)) }

// world is a database that producers use, with pgx and with database/sql.
type world struct {
	t    *testing.T
	ctx  context.Context
	url  string
	conn *pgx.Conn
	sql  *sql.DB
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	w := &world{t: t, ctx: ctx, url: testkit.NewDatabase(t)}
	var err error
	if w.conn, err = pgx.Connect(ctx, w.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.conn.Close(context.Background()) })
	if w.sql, err = sql.Open("pgx", w.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.sql.Close() })
	return w
}

// overDrivers runs a test with pgx and with database/sql.
func overDrivers(t *testing.T, test func(w *world, db producer.DB)) {
	t.Run("pgx", func(t *testing.T) { w := newWorld(t); test(w, producer.Pgx(w.conn)) })
	t.Run("database/sql", func(t *testing.T) { w := newWorld(t); test(w, producer.SQL(w.sql)) })
}

func (w *world) exec(text string, args ...any) {
	w.t.Helper()
	if _, err := w.conn.Exec(w.ctx, text, args...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) count(where string) (n int) {
	w.t.Helper()
	if err := w.conn.QueryRow(w.ctx, "SELECT count(*) FROM jobs WHERE "+where).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}
