package pgsource_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// TestBehindAPooler: in transaction mode, with several sources at once, everything works,
// and strangers in the same pool see nothing of our settings and locks.
func TestBehindAPooler(t *testing.T) {
	b := newBench(t)
	b.member.Leave(b.ctx)
	pooler := testkit.OwnPgBouncer(t, stack.PgBouncerConfig{Target: testkit.Postgres(t), PoolMode: "transaction"})
	name := b.conn.Config().Database
	url := pooler.DatabaseURL(name)
	var together sync.WaitGroup
	for range 3 {
		together.Go(func() {
			if _, err := pgsource.MigrateUp(b.ctx, url); err != nil {
				t.Errorf("migrate: %v", err)
			}
		})
	}
	together.Wait()
	ids := b.insert(60, "0")
	for i := range 3 {
		s := open(t, b.ctx, pgsource.Config{DatabaseURL: url, MaxConns: 2, ListenURL: b.url})
		m, lease := b.join(s)
		defer m.Leave(b.ctx)
		req := b.request(ids[20*i : 20*i+20])
		req.Lease, req.Static, req.Token = lease, reactor.AllShards, [16]byte{byte(i + 100)}
		batch, err := s.Claim(b.ctx, req)
		if err != nil || len(batch.Jobs) != 20 {
			t.Fatalf("claimed %d jobs: %v", len(batch.Jobs), err)
		}
		outcomes, err := s.Settle(b.ctx, []reactor.Settlement{{BatchID: batch.ID, Token: batch.Token, Lease: lease, Jobs: 20, Kept: 20, Settled: 20, Done: true}})
		if err != nil || !outcomes[0].Held {
			t.Fatalf("settled %+v: %v", outcomes, err)
		}
		listen(t, b.ctx, s)
	}
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	for range 20 {
		stranger, err := pgx.ConnectConfig(b.ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		var commit, seqscan, path string
		if err := stranger.QueryRow(b.ctx, "SELECT current_setting('synchronous_commit'), current_setting('enable_seqscan'), current_setting('search_path')").Scan(&commit, &seqscan, &path); err != nil {
			t.Fatal(err)
		}
		if commit != "on" || seqscan != "on" || !strings.Contains(path, "public") {
			t.Errorf("a stranger finds synchronous_commit %s, enable_seqscan %s, search_path %s", commit, seqscan, path)
		}
		stranger.Close(b.ctx)
	}
	if n := b.count("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"); n != 0 {
		t.Errorf("%d advisory locks are left", n)
	}
	s := open(t, b.ctx, pgsource.Config{DatabaseURL: url, MaxConns: 2})
	if err := s.Listen(b.ctx, func(reactor.Hint) {}); err == nil || !strings.Contains(err.Error(), "--listen-url") {
		t.Errorf("LISTEN through a pooler: %v", err)
	}
}

// TestHostileDefaults: what a role or a database sets does not reach our statements.
func TestHostileDefaults(t *testing.T) {
	b := newBench(t)
	b.member.Leave(b.ctx)
	name := pgx.Identifier{b.conn.Config().Database}.Sanitize()
	for _, set := range []string{
		"default_transaction_isolation = 'repeatable read'", "synchronous_commit = off", "lock_timeout = '1ms'",
		"idle_session_timeout = '100ms'", "DateStyle = 'German, DMY'", "IntervalStyle = 'sql_standard'", "enable_indexscan = off",
	} {
		b.exec("ALTER DATABASE " + name + " SET " + set)
	}
	s := open(t, b.ctx, pgsource.Config{DatabaseURL: b.url})
	m, lease := b.join(s)
	defer m.Leave(b.ctx)
	ids := b.insert(5, "0")
	req := b.request(ids)
	req.Lease, req.Static = lease, reactor.AllShards
	if batch, err := s.Claim(b.ctx, req); err != nil || len(batch.Jobs) != 5 {
		t.Fatalf("claimed %d jobs: %v", len(batch.Jobs), err)
	}
	if _, _, ok, err := s.ResolveClaim(b.ctx, req); err != nil || !ok {
		t.Errorf("a claim that was made is resolved to %t: %v", ok, err)
	}
}
