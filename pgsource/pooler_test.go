package pgsource_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// pooled is a migrated database on a server of its own, behind a pooler; the bench's conn leads
// straight to the server.
func pooled(t *testing.T, cfg stack.PgBouncerConfig) (*bench, *stack.PgBouncer) {
	t.Helper()
	server := testkit.OwnPostgres(t, ownServer)
	cfg.Target = server
	pooler := testkit.OwnPgBouncer(t, cfg)
	return examine(t, server.URL()), pooler
}

// otherClient is a connection of another program through the pooler.
func (b *bench) otherClient(url string) *pgx.Conn {
	b.t.Helper()
	return connect(b.t, b.ctx, with(b.t, url, "default_query_exec_mode", "simple_protocol"))
}

// shown returns our settings as other clients see them, on one server connection after the other.
func (b *bench) shown(otherClients []*pgx.Conn) map[string]bool {
	b.t.Helper()
	seen := map[string]bool{}
	// A transaction each, at once, so that each has another connection of the pool.
	for _, conn := range otherClients {
		if _, err := conn.Exec(b.ctx, "BEGIN"); err != nil {
			b.t.Fatal(err)
		}
	}
	for _, conn := range otherClients {
		for _, name := range pgsource.Pinned() {
			var value string
			if err := conn.QueryRow(b.ctx, "SHOW "+name).Scan(&value); err != nil {
				b.t.Fatal(err)
			}
			seen[name+" = "+value] = true
		}
		if _, err := conn.Exec(b.ctx, "COMMIT"); err != nil {
			b.t.Fatal(err)
		}
	}
	return seen
}

// TestPooler: five instances and some other clients share the server connections of a pooler in
// transaction mode, with its default settings.
func TestPooler(t *testing.T) {
	const (
		instances = 5
		poolSize  = 8
	)
	b, pooler := pooled(t, stack.PgBouncerConfig{PoolSize: poolSize})
	otherClients := make([]*pgx.Conn, poolSize)
	for i := range otherClients {
		otherClients[i] = b.otherClient(pooler.URL())
	}
	before := b.shown(otherClients)

	var wg sync.WaitGroup
	for range instances {
		wg.Go(func() {
			if _, err := pgsource.MigrateUp(b.ctx, pooler.URL()); err != nil {
				t.Errorf("migrate: %v", err)
			}
		})
	}
	wg.Wait()
	if after := b.shown(otherClients); !maps.Equal(before, after) {
		t.Errorf("after the migration strangers see %v", difference(before, after))
	}

	sources, members, leases := make([]*pgsource.Source, instances), make([]driver.Member, instances), make([]driver.Lease, instances)
	for i := range sources {
		wg.Go(func() {
			s, err := pgsource.New(pgsource.Config{DatabaseURL: pooler.URL(), MaxConns: 2, Logger: testkit.Logger(t)})
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Open(b.ctx); err != nil {
				t.Errorf("open: %v", err)
				return
			}
			sources[i] = s
			t.Cleanup(s.Close)
			if members[i], err = s.Join(b.ctx, driver.JoinOptions{Lanes: 1}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for range 3 { // until the shares are fair
		for i, m := range members {
			h, err := m.Beat(b.ctx)
			if err != nil || len(h.Leases) != 1 {
				t.Fatalf("instance %d holds %+v, %v", i, h, err)
			}
			leases[i] = h.Leases[0]
		}
	}
	ids := b.insert(5000, "-1 second")
	var (
		mu    sync.Mutex
		taken = map[int64]int{}
	)
	for i, s := range sources {
		if !s.Pooled() {
			t.Errorf("instance %d does not see the pooler", i)
		}
		wg.Go(func() {
			for from := 0; from < len(ids); from += 500 {
				req := driver.ClaimRequest{QoS: 2, Lease: leases[i], IDs: append([]int64(nil), ids[from:from+500]...), FirstSlot: 1, Reach: 512, Bytes: 8 << 20}
				req.Token = [16]byte{byte(i), byte(from >> 8), byte(from)}
				batch, err := s.Claim(b.ctx, req)
				if err != nil {
					t.Errorf("claim: %v", err)
					return
				}
				mu.Lock()
				for _, job := range batch.Jobs {
					taken[job.ID]++
				}
				mu.Unlock()
				if n := len(batch.Jobs); n > 0 {
					held, err := s.Settle(b.ctx, []driver.Settlement{{BatchID: batch.ID, Token: batch.Token, Lease: leases[i], Jobs: n, Kept: n, Concluded: n / 2}})
					if err != nil || !held[0].Recorded {
						t.Errorf("settle: %+v, %v", held, err)
					}
				}
				if _, err := members[i].Beat(b.ctx); err != nil {
					t.Errorf("beat: %v", err)
				}
			}
			if recovered, err := s.Recover(b.ctx, leases[i]); err != nil || len(recovered) == 0 {
				t.Errorf("recovered %d batches, %v", len(recovered), err)
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			if _, err := otherClients[0].Exec(b.ctx, "SELECT count(*) FROM pg_class"); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	for _, id := range ids {
		if taken[id] != 1 {
			t.Fatalf("job %d is taken %d times", id, taken[id])
		}
	}
	if after := b.shown(otherClients); !maps.Equal(before, after) {
		t.Errorf("strangers see %v", difference(before, after))
	}
	if n := b.count("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"); n != 0 {
		t.Errorf("%d advisory locks are stranded", n)
	}
	if n := b.count("SELECT count(*) FROM reactor.instances"); n != instances {
		t.Errorf("%d of %d instances are left", n, instances)
	}
	for i, s := range sources {
		for kind, values := range s.Settings(t, b.ctx) {
			if values["search_path"] != "pg_catalog, pg_temp" || values["transaction_isolation"] != "read committed" || values["synchronous_commit"] != "on" ||
				values["enable_seqscan"] != "off" || values["row_security"] != "off" || values["statement_timeout"] == "0" {
				t.Errorf("instance %d, %s: %v", i, kind, values)
			}
		}
	}
}

func difference(before, after map[string]bool) (extra []string) {
	for s := range after {
		if !before[s] {
			extra = append(extra, s)
		}
	}
	return extra
}

// TestWhatStrangersLeave: the settings of other clients do not affect us. All share one server
// connection.
func TestWhatStrangersLeave(t *testing.T) {
	b, pooler := pooled(t, stack.PgBouncerConfig{PoolSize: 1})
	b.migrateUp(b.url)
	b.start(pooler.URL())
	otherClient := b.otherClient(pooler.URL())
	for _, setting := range []string{
		"synchronous_commit = off", "default_transaction_isolation = 'repeatable read'", "search_path = ''", "enable_indexscan = off",
		"lock_timeout = 1", "row_security = on", "DateStyle = 'SQL, DMY'", "plan_cache_mode = force_generic_plan",
	} {
		if _, err := otherClient.Exec(b.ctx, "SET "+setting); err != nil {
			t.Fatal(err)
		}
	}
	b.wholePath()
	for kind, values := range b.Settings(t, b.ctx) {
		if values["search_path"] != "pg_catalog, pg_temp" || values["transaction_isolation"] != "read committed" || values["synchronous_commit"] != "on" || values["enable_indexscan"] != "on" {
			t.Errorf("%s: %v", kind, values)
		}
	}
	// And the other client keeps its own settings.
	var value string
	if err := otherClient.QueryRow(b.ctx, "SHOW synchronous_commit").Scan(&value); err != nil || value != "off" {
		t.Errorf("the stranger's synchronous_commit is %s, %v", value, err)
	}
}

// TestStaleSessionsBehindAPooler: the pooler's connections were opened while the database was
// read-only, and stay read-only after that; and another client makes one of them read-only.
func TestStaleSessionsBehindAPooler(t *testing.T) {
	b, pooler := pooled(t, stack.PgBouncerConfig{PoolSize: 3})
	b.migrateUp(b.url)
	b.start(pooler.URL())
	ids := b.insert(6, "-1 second")
	refused := func() {
		t.Helper()
		if _, err := b.Claim(b.ctx, b.request(ids)); err == nil {
			t.Fatal("claimed over a session that is read-only")
		}
	}
	claimed := func(ids []int64) {
		t.Helper()
		batch, err := b.Claim(b.ctx, b.request(ids))
		for ; err != nil && b.ctx.Err() == nil; batch, err = b.Claim(b.ctx, b.request(ids)) {
		}
		if err != nil || len(batch.Jobs) != len(ids) {
			t.Fatalf("claimed %+v, %v", batch, err)
		}
	}
	const backends = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
	b.exec(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$`)
	b.exec("SELECT pg_terminate_backend(pid) " + backends)
	for range 3 {
		refused()
	}
	// As long as the database is read-only by default, no session is ended because of it.
	var before, after time.Time
	for _, begun := range []*time.Time{&before, &after} {
		if err := b.conn.QueryRow(b.ctx, "SELECT min(backend_start) "+backends).Scan(begun); err != nil {
			t.Fatal(err)
		}
		refused()
	}
	if !before.Equal(after) {
		t.Error("a session was ended that follows the rule")
	}
	b.exec(`SET default_transaction_read_only = off`)
	b.exec(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET default_transaction_read_only', current_database()); END $$`)
	claimed(ids[:3])
	if _, err := b.otherClient(pooler.URL()).Exec(b.ctx, "SET default_transaction_read_only = on"); err != nil {
		t.Fatal(err)
	}
	claimed(ids[3:])
}

// TestErrorBehindAPooler: after an error the one server connection can be used.
func TestErrorBehindAPooler(t *testing.T) {
	b, pooler := pooled(t, stack.PgBouncerConfig{PoolSize: 1})
	b.migrateUp(b.url)
	b.start(pooler.URL())
	b.exec("ALTER TABLE jobs ADD CONSTRAINT no_two CHECK (NOT processed OR topic <> 't/2') NOT VALID")
	ids := b.insert(3, "-1 second")
	pid := func() (pid int) {
		if err := b.otherClient(pooler.URL()).QueryRow(b.ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
			t.Fatal(err)
		}
		return pid
	}
	before := pid()
	var about *driver.JobError
	if _, err := b.Claim(b.ctx, b.request(ids)); !errors.As(err, &about) {
		t.Fatalf("the claim says %v", err)
	}
	if after := pid(); after != before {
		t.Errorf("the pooler has made a new connection for an error: backend %d, was %d", after, before)
	}
	if batch := b.claim([]int64{ids[0], ids[2]}); len(batch.Jobs) != 2 {
		t.Errorf("claimed %+v", batch)
	}
}

// TestPoolerOfSessions: a pooler in session mode looks the same, and works as well.
func TestPoolerOfSessions(t *testing.T) {
	b, pooler := pooled(t, stack.PgBouncerConfig{PoolMode: stack.PoolSession, PoolSize: 40})
	b.migrateUp(pooler.URL())
	b.start(pooler.URL())
	b.wholePath()
}

// TestPoolersOfNoUse: the error names a pooler that cannot be used, and says what to do.
func TestPoolersOfNoUse(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]stack.PgBouncerConfig{
		"statement mode":            {PoolMode: stack.PoolStatement},
		"session mode without room": {PoolMode: stack.PoolSession, PoolSize: 1, ExtraLines: []string{"query_wait_timeout = 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			b, pooler := pooled(t, cfg)
			b.migrateUp(b.url)
			if why := b.refused(pgsource.Config{DatabaseURL: pooler.URL()}); !strings.Contains(why, "transaction mode") {
				t.Error(why)
			}
			if cfg.PoolMode == stack.PoolSession {
				return
			}
			if _, err := pgsource.MigrateUp(b.ctx, pooler.URL()); err == nil || !strings.Contains(err.Error(), "transaction mode") {
				t.Errorf("migrating says %v", err)
			}
		})
	}
}

// TestFeedBehindAPooler: the feed says that it needs a direct connection, and works with one.
func TestFeedBehindAPooler(t *testing.T) {
	b, pooler := pooled(t, stack.PgBouncerConfig{})
	b.migrateUp(b.url)
	b.start(pooler.URL())
	err := b.Listen(b.ctx, func(driver.Hint) { t.Error("a hint came through the pooler") })
	if err == nil || !strings.Contains(err.Error(), "pgsource.Config.ListenURL") {
		t.Errorf("without a direct connection the feed says %v", err)
	}
	other := open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, ListenURL: pooler.URL()})
	if err := other.Listen(b.ctx, func(driver.Hint) {}); err == nil || !strings.Contains(err.Error(), "pgsource.Config.ListenURL") {
		t.Errorf("with a pooler for LISTEN alone the feed says %v", err)
	}
	direct := open(t, b.ctx, pgsource.Config{DatabaseURL: pooler.URL(), ListenURL: b.url})
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	connected, hints := make(chan struct{}), make(chan driver.Hint, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- direct.Listen(ctx, func(h driver.Hint) {
			switch h.Kind {
			case driver.HintConnected:
				close(connected)
			case driver.HintJobs:
				hints <- h
			}
		})
	}()
	for _, wait := range []func() bool{
		func() bool {
			select {
			case <-connected:
				return true
			case <-b.ctx.Done():
				return false
			}
		},
		func() bool {
			b.insert(1, "1 second")
			select {
			case <-hints:
				return true
			case <-b.ctx.Done():
				return false
			}
		},
	} {
		if !wait() {
			t.Fatal("the feed is silent")
		}
	}
	cancel()
	<-ended
}

// TestUnknownOutcomeBehindAPooler cuts between us and the pooler, which goes on.
func TestUnknownOutcomeBehindAPooler(t *testing.T) {
	for name, direction := range map[string]netfault.Direction{"statement lost": netfault.ToServer, "answer lost": netfault.ToClient} {
		t.Run(name, func(t *testing.T) {
			b, pooler := pooled(t, stack.PgBouncerConfig{})
			b.migrateUp(b.url)
			proxy := testkit.NewProxy(t, pooler.URL())
			b.start(proxy.Through(pooler.URL()))
			b.claim(b.insert(1, "-1 second")) // the statement is known to the connection
			ids := b.insert(5, "-1 second")
			req := b.request(ids)
			marker := req.Token[:]
			if direction == netfault.ToClient {
				marker = []byte("payload 1")
			}
			proxy.SetHook(func(c netfault.Chunk) netfault.Verdict {
				if c.Direction == direction && bytes.Contains(c.Data, marker) {
					return netfault.Verdict{Then: netfault.FaultCut}
				}
				return netfault.Verdict{Forward: len(c.Data)}
			})
			_, err := b.Claim(b.ctx, req)
			proxy.SetHook(nil)
			var unknown *driver.UnknownError
			if !errors.As(err, &unknown) {
				t.Fatalf("the claim says %v, want an unknown outcome", err)
			}
			batch, _, ok, err := b.ResolveClaim(b.ctx, req)
			claimed := b.count("SELECT count(*) FROM jobs WHERE processed AND id = ANY ($1)", ids)
			if err != nil || ok != (claimed == 5) || ok && len(batch.Jobs) != 5 || ok != (direction == netfault.ToClient) {
				t.Errorf("resolved to %t with %d jobs, %v; %d are claimed", ok, len(batch.Jobs), err, claimed)
			}
		})
	}
}

// TestHeartbeatsBehindAPooler: an instance that beats through a pooler does not look dead when the
// server session of its beat has ended.
func TestHeartbeatsBehindAPooler(t *testing.T) {
	b, pooler := pooled(t, stack.PgBouncerConfig{PoolSize: 4})
	b.migrateUp(b.url)
	b.start(pooler.URL())
	direct := open(t, b.ctx, pgsource.Config{DatabaseURL: b.url})
	judge, err := direct.Join(b.ctx, driver.JoinOptions{Lanes: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.member.Beat(b.ctx); err != nil {
		t.Fatal(err)
	}
	// The heartbeat is more than half a TTL old, and less than a whole; the other instance was
	// steady. Since then all server connections of the pooler have been replaced.
	b.exec(fmt.Sprintf(`UPDATE reactor.instances SET steady_since = now() - interval '1 hour',
		heartbeat_at = now() - CASE WHEN id = %d THEN interval '2 seconds' ELSE interval '0' END`, b.lease.Owner))
	if err := pooler.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := judge.Beat(b.ctx); err != nil {
		t.Fatal(err)
	}
	if n := b.count("SELECT count(*) FROM reactor.instances WHERE id = $1", b.lease.Owner); n != 1 {
		t.Error("an instance behind a pooler was deposed for a session that is not its own")
	}
	if err := pooler.Start(b.ctx); err != nil {
		t.Fatal(err)
	}
	b.eventuallyBeats()
}

// eventuallyBeats: the first beat may find the cut connection.
func (b *bench) eventuallyBeats() {
	b.t.Helper()
	var err error
	for range 50 {
		if _, err = b.member.Beat(b.ctx); err == nil || errors.Is(err, driver.ErrDeposed) {
			break
		}
	}
	if err != nil {
		b.t.Errorf("heartbeat: %v", err)
	}
}
