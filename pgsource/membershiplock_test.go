package pgsource_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// earlierLock is the key of the advisory lock of earlier versions.
const earlierLock = int64(0x72656163746f72)

// TestStrangersCannotStopTheMembership: who may only connect and read takes the advisory lock of earlier versions, and
// can take no other that the membership waits for.
func TestStrangersCannotStopTheMembership(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	role, url := b.role("")
	b.exec("GRANT USAGE ON SCHEMA reactor TO " + role + "; GRANT SELECT ON ALL TABLES IN SCHEMA reactor TO " + role)
	stranger := connect(t, b.ctx, url)
	if _, err := stranger.Exec(b.ctx, "SELECT pg_advisory_lock($1)", earlierLock); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		"SELECT FROM reactor.shards WHERE shard = 0 FOR UPDATE", "SELECT FROM reactor.shards WHERE shard = 0 FOR KEY SHARE",
		"LOCK TABLE reactor.shards IN ROW SHARE MODE", "LOCK TABLE reactor.shards IN EXCLUSIVE MODE",
	} {
		if _, err := stranger.Exec(b.ctx, "BEGIN; "+sql); err == nil {
			t.Errorf("a reader may %s", sql)
		}
		if _, err := stranger.Exec(b.ctx, "ROLLBACK"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := stranger.Exec(b.ctx, "BEGIN; LOCK TABLE reactor.shards, reactor.lanes, reactor.instances IN ACCESS SHARE MODE; SELECT FROM reactor.shards"); err != nil {
		t.Fatal(err)
	}

	second, _ := b.join(open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, Name: "second"}))
	if h := beat(t, b.ctx, second); h.Shards.Len() != 32 {
		t.Errorf("the second has %d shards", h.Shards.Len())
	}
	if err := second.ReleaseShards(b.ctx); err != nil {
		t.Error(err)
	}
	if err := second.Leave(b.ctx); err != nil {
		t.Error(err)
	}
	if h := beat(t, b.ctx, b.member); h.Shards != driver.AllShards {
		t.Errorf("the first has %d shards again", h.Shards.Len())
	}
	b.exec("UPDATE reactor.deployment SET system_identifier = system_identifier - 1")
	b.isCopy(b.name())
}

// TestOneRebalancesAtATime: nothing is distributed while another instance has the lock, of this version or of an
// earlier one during an upgrade; and those see ours.
func TestOneRebalancesAtATime(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for name, lock := range map[string]string{
		"of this version":   "SELECT FROM reactor.shards WHERE shard = 0 FOR UPDATE",
		"of an earlier one": "SELECT pg_advisory_xact_lock(x'72656163746f72'::bigint)",
	} {
		other, err := connect(t, b.ctx, b.url).Begin(b.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.Exec(b.ctx, lock); err != nil {
			t.Fatal(err)
		}
		m, err := open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, Name: "another"}).Join(b.ctx, driver.JoinOptions{Lanes: 1})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if h := beat(t, b.ctx, m); h.Shards != 0 || len(h.Leases) > 0 {
				t.Fatalf("while one %s has the lock: %+v", name, h)
			}
		}
		left := make(chan error, 1)
		go func() { left <- m.Leave(b.ctx) }()
		if err := other.Rollback(b.ctx); err != nil {
			t.Fatal(err)
		}
		if err := <-left; err != nil {
			t.Errorf("to leave while one %s has the lock: %v", name, err)
		}
	}

	// An instance of an earlier version waits while one of this version distributes.
	b.exec(`CREATE FUNCTION reactor.look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO reactor.seen SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid(); RETURN NULL; END $$;
		CREATE TABLE reactor.seen (locks bigint); CREATE TRIGGER look AFTER UPDATE ON reactor.shards FOR EACH STATEMENT EXECUTE FUNCTION reactor.look()`)
	second, _ := b.join(open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, Name: "second"}))
	if err := second.Leave(b.ctx); err != nil {
		t.Fatal(err)
	}
	if all, without := b.count("SELECT count(*) FROM reactor.seen"), b.count("SELECT count(*) FROM reactor.seen WHERE locks <> 1"); all < 2 || without > 0 {
		t.Errorf("of %d changes %d were made without the lock of earlier versions", all, without)
	}
}

// lockMembership takes the lock of the membership in a transaction of the test.
func (b *bench) lockMembership() pgx.Tx {
	b.t.Helper()
	tx, err := b.conn.Begin(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := tx.Exec(b.ctx, "SELECT pg_advisory_xact_lock($1), (SELECT shard FROM reactor.shards WHERE shard = 0 FOR UPDATE)", earlierLock); err != nil {
		b.t.Fatal(err)
	}
	return tx
}
