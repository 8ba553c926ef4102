package pgsource_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor/driver"
)

// TestSettled: a transaction that has written holds it up until it ends; one that reads does not,
// however old its snapshot is.
func TestSettled(t *testing.T) {
	server := testkit.OwnPostgres(t, ownServer) // the transactions of others would count as well
	b := examine(t, server.URL())
	b.migrateUp(b.url)
	b.start(b.url)
	settled := func() driver.DBTime {
		t.Helper()
		at, err := b.Settled(b.ctx)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	// comesTo asks until the answer is later than an instant.
	comesTo := func(what string, least driver.DBTime) {
		t.Helper()
		for range 1000 {
			if settled() >= least {
				return
			}
		}
		t.Fatalf("%s: what was written before %v is not settled", what, least.Time())
	}
	comesTo("nothing is open", b.now())

	reader, err := connect(t, b.ctx, b.url).BeginTx(b.ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Rollback(b.ctx)
	if _, err := reader.Exec(b.ctx, "SELECT FROM jobs"); err != nil {
		t.Fatal(err)
	}
	b.insert(1, "1 hour")
	comesTo("a snapshot is held", b.now())

	writer, err := connect(t, b.ctx, b.url).Begin(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Rollback(b.ctx)
	if _, err := writer.Exec(b.ctx, "INSERT INTO jobs (topic, fire_at) VALUES ('t', now() + interval '2 minutes')"); err != nil {
		t.Fatal(err)
	}
	written := b.now()
	for range 20 {
		b.insert(1, "1 hour")
		if at := settled(); at >= written {
			t.Fatalf("settled up to %v, and at %v a transaction wrote that is open", at.Time(), written.Time())
		}
	}
	if err := writer.Commit(b.ctx); err != nil {
		t.Fatal(err)
	}
	comesTo("all have ended", b.now())
}
