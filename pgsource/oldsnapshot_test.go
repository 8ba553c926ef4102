package pgsource

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor/driver"
)

// snapshotBench is a source whose jobs are processed while somebody holds an old snapshot.
type snapshotBench struct {
	*Source
	t      *testing.T
	ctx    context.Context
	conn   *pgx.Conn
	member *member
	lease  driver.Lease
	nextID int64
}

// newSnapshotBench takes the snapshot, before anything has happened. Nothing is ever analyzed: the
// table is too young.
func newSnapshotBench(t *testing.T) *snapshotBench {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	database := testkit.NewDatabase(t)
	s, err := New(Config{DatabaseURL: database})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	b := &snapshotBench{Source: s, t: t, ctx: ctx, conn: login(t, ctx, database, ""), nextID: 1}
	b.exec("ALTER TABLE jobs SET (autovacuum_enabled = false); ALTER TABLE reactor.in_flight SET (autovacuum_enabled = false)")
	b.hold(login(t, ctx, database, ""))
	m, err := s.Join(ctx, driver.JoinOptions{Lanes: 1})
	if err != nil {
		t.Fatal(err)
	}
	b.member = m.(*member)
	b.beat()
	return b
}

// hold has a session hold a snapshot from now on.
func (b *snapshotBench) hold(conn *pgx.Conn) {
	b.t.Helper()
	tx, err := conn.BeginTx(b.ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	if _, err := tx.Exec(b.ctx, "SELECT FROM jobs LIMIT 1"); err != nil {
		b.t.Fatal(err)
	}
}

func (b *snapshotBench) exec(sql string, args ...any) {
	b.t.Helper()
	if _, err := b.conn.Exec(b.ctx, sql, args...); err != nil {
		b.t.Fatal(err)
	}
}

func (b *snapshotBench) count(sql string, args ...any) (n int64) {
	b.t.Helper()
	if err := b.conn.QueryRow(b.ctx, sql, args...).Scan(&n); err != nil {
		b.t.Fatal(err)
	}
	return n
}

// beat beats, and waits for the chores that the beat has started.
func (b *snapshotBench) beat() {
	b.t.Helper()
	h, err := b.member.Beat(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	if len(h.Leases) > 0 {
		b.lease = h.Leases[0]
	}
	b.chores.Wait()
}

// claim claims a number of new jobs.
func (b *snapshotBench) claim(jobs int) driver.Batch {
	b.t.Helper()
	req := driver.ClaimRequest{QoS: 2, Lease: b.lease, Within: time.Second, FirstSlot: 1, Reach: 512, Bytes: 8 << 20, Static: driver.AllShards}
	req.Token = driver.NewToken()
	for range jobs {
		req.IDs = append(req.IDs, b.nextID)
		b.nextID++
	}
	b.exec("INSERT INTO jobs (id, topic, fire_at) SELECT id, 't', now() FROM unnest($1::bigint[]) AS id", req.IDs)
	batch, err := b.Claim(b.ctx, req)
	if err != nil || len(batch.Jobs) != jobs {
		b.t.Fatalf("claimed %d of %d jobs: %v", len(batch.Jobs), jobs, err)
	}
	return batch
}

// process has jobs go all the way, a batch of four at a time, with a beat every now and then.
func (b *snapshotBench) process(batches int) {
	b.t.Helper()
	for i := range batches {
		b.publish(b.claim(4))
		if i%500 == 499 {
			b.beat()
		}
	}
}

// publish settles a batch as one of QoS 2 is: received, and then released.
func (b *snapshotBench) publish(batch driver.Batch) {
	b.t.Helper()
	n := len(batch.Jobs)
	st := driver.Settlement{BatchID: batch.ID, Token: batch.Token, Lease: b.lease, Jobs: n, Kept: n, Concluded: n}
	for _, st.Done = range []bool{false, true} {
		if _, err := b.Settle(b.ctx, []driver.Settlement{st}); err != nil {
			b.t.Fatal(err)
		}
	}
}

// pages returns how many pages of tables and indexes a statement reads, in a transaction that takes
// no effect. What comes before is counted as well. The server counts, since EXPLAIN misses what
// statements in a WITH clause read that nobody reads from.
//
// The smallest of several counts is the true one: the server also tells now and then, and all at once, what other
// sessions have read before.
func (b *snapshotBench) pages(mode, before, sql string, args ...any) int64 {
	b.t.Helper()
	first, second := b.pagesOnce(mode, before, sql, args...), b.pagesOnce(mode, before, sql, args...)
	if first == second {
		return first
	}
	return min(first, second, b.pagesOnce(mode, before, sql, args...))
}

func (b *snapshotBench) pagesOnce(mode, before, sql string, args ...any) int64 {
	b.t.Helper()
	was := b.count(pagesReadSQL)
	err := b.work.tx(b.ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(b.ctx, "SET LOCAL plan_cache_mode = "+mode+"; "+before); err != nil {
			return err
		}
		if _, err := tx.Exec(b.ctx, sql, args...); err != nil {
			return err
		}
		if _, err := tx.Exec(b.ctx, "SELECT pg_stat_force_next_flush()"); err != nil {
			return err
		}
		return errRollBack
	})
	if err != errRollBack { //nolint:errorlint // it is not wrapped
		b.t.Fatalf("%v\n%s", err, sql)
	}
	return b.count(pagesReadSQL) - was
}

// pagesReadSQL leaves out reactor.schedules, which no counted statement reads: the instance looks at it
// every second, and the server counts many such looks at once, at any time.
const pagesReadSQL = `
	SELECT sum(coalesce(heap_blks_read, 0) + coalesce(heap_blks_hit, 0) + coalesce(idx_blks_read, 0) + coalesce(idx_blks_hit, 0))::bigint
	  FROM pg_statio_user_tables WHERE schemaname = 'reactor' AND relname <> 'schedules' OR relname = 'jobs'`

var errRollBack = errors.New("this transaction is to take no effect")

// reads counts the pages of the statements of an instance that run while nothing is wrong, or that
// read the journal.
func (b *snapshotBench) reads() map[string]int64 {
	batch := b.claim(4) // there is always something on its way
	defer b.publish(batch)
	// What all sessions have read until now is to be counted before.
	b.work.pool.mu.Lock()
	idle := len(b.work.pool.idle)
	b.work.pool.mu.Unlock()
	conns := make([]*pooledConn, idle)
	for i := range conns {
		conn, err := b.work.pool.acquire(b.ctx, time.Minute)
		if err == nil {
			_, err = conn.Exec(b.ctx, "SELECT pg_stat_force_next_flush()")
		}
		if err != nil {
			b.t.Fatal(err)
		}
		conns[i] = conn
	}
	for _, conn := range conns {
		b.work.pool.release(conn)
	}
	b.exec("SELECT pg_stat_force_next_flush()")
	counts := map[string]int64{}
	add := func(name, before, sql string, args ...any) {
		for _, mode := range []string{"force_generic_plan", "force_custom_plan"} {
			counts[name+", "+mode] = b.pages(mode, before, sql, args...)
		}
	}
	lane := b.lease.Lane
	beat := []any{b.member.id, interval(b.cfg.TTL), false, "", "", dbTime{}, "{}"}
	add("heartbeat", "", beatSQL, beat...)
	add("heartbeat, a lane without an owner", fmt.Sprint("UPDATE reactor.lanes SET owner = NULL WHERE lane = ", lane), beatSQL, beat...)
	add("heartbeat, an empty lane without an owner", fmt.Sprint("DELETE FROM reactor.in_flight WHERE batch = ", batch.ID, "; UPDATE reactor.lanes SET owner = NULL WHERE lane = ", lane), beatSQL, beat...)
	add("recovery", "", b.jobs().journal, lane, (*[16]byte)(nil), driver.LaneSlots)
	add("recovery, unsettled", "", b.jobs().unsettled, lane, 1<<16)
	add("recovery, cut", "", cutSettledSQL, lane, driver.LaneSlots)
	add("recovery, drop", "", dropEmptySQL, lane)
	add("resolve", "", b.jobs().journal, lane, batch.Token, driver.LaneSlots)
	add("reopen", "", reopenSQL, lane, 7)
	var done plainSettlements
	done.add(driver.Settlement{BatchID: batch.ID, Token: batch.Token, Lease: b.lease, Jobs: 4, Kept: 4, Concluded: 4, Done: true})
	add("settle", "", settleSQL, done.args()...)
	add("raise", fmt.Sprint("SELECT set_config('reactor.locked_lane', '", lane, "', true)"), raiseStartSQL, lane, batch.ID)
	req := driver.ClaimRequest{QoS: 2, Lease: b.lease, IDs: idsOfBatch(batch), Within: time.Second, FirstSlot: 1, Reach: 512, Bytes: 8 << 20, Static: driver.AllShards}
	// A sweep of what is near, where nothing has happened for as long as that reaches back.
	var now dbTime
	if err := b.conn.QueryRow(b.ctx, "SELECT clock_timestamp()").Scan(&now); err != nil {
		b.t.Fatal(err)
	}
	add("sweep", "", b.jobs().loadWindow, windowArgs(now.DBTime, now.DBTime.Add(time.Hour))...)
	add("what is settled", "", settledSQL)
	add("claim", "UPDATE public.jobs SET processed = false WHERE id = "+fmt.Sprint(batch.Jobs[0].ID), b.jobs().claim, b.jobs().claimArgs(req)...)
	return counts
}

// windowArgs are the parameters of a read of all shards.
func windowArgs(from, until driver.DBTime) []any {
	const shards = driver.Shards
	var (
		shard = make([]int16, shards)
		at    = make([]dbTime, shards)
		id    = make([]int64, shards)
	)
	for i := range shards {
		c := driver.CursorAt(uint8(i), from)
		shard[i], at[i], id[i] = int16(i), dbTime{c.AfterAt}, c.AfterID
	}
	return []any{shard, at, id, dbTime{until}, 64}
}

func idsOfBatch(batch driver.Batch) (ids []int64) {
	for _, job := range batch.Jobs {
		ids = append(ids, job.ID)
	}
	return ids
}

// TestPagesUnderOldSnapshot: while somebody holds an old snapshot, nothing that was
// processed or settled leaves the tables' pages. What heartbeats, recoveries, claims, settlements and
// sweeps read of them does not grow: with ten times as many jobs it is as many pages, but for a level of an index.
func TestPagesUnderOldSnapshot(t *testing.T) {
	t.Parallel()
	b := newSnapshotBench(t)
	const some = 300
	b.process(some)
	before := b.reads()
	walk := func() int64 {
		return b.pages("auto", "", b.jobs().loadWindow, windowArgs(driver.DistantPast, driver.DBTimeOf(time.Now()))...)
	}
	walked := walk()
	b.process(9 * some)
	after := b.reads()
	if n := walk(); n < 5*walked {
		t.Errorf("a scan from the beginning reads %d pages, and then %d: nothing was kept for the snapshot", walked, n)
	}
	if n := b.count("SELECT pg_relation_size('reactor.in_flight') / 8192"); n < 100 {
		t.Fatalf("the journal has %d pages: nothing was kept for the snapshot", n)
	}
	compare := func(what string, after map[string]int64) {
		for _, name := range slices.Sorted(maps.Keys(before)) {
			was, is := before[name], after[name]
			t.Logf("%-65s %4d pages, %s %4d", name, was, what, is)
			// Each search of an index that has grown by a level reads a page more, and an update that finds its page
			// full looks for another one, and enters the row into each index. Ten times as many would be a hundred more.
			if is > was+was/2+24 {
				t.Errorf("%s reads %d pages, and %s %d", name, was, what, is)
			}
		}
	}
	compare("with ten times as many batches", after)
	// The statistics of a table of dead rows say that it is empty.
	b.exec("ANALYZE")
	compare("analyzed", b.reads())
	b.exec("VACUUM jobs")
	b.exec("VACUUM reactor.in_flight")
	compare("vacuumed", b.reads())
}

// TestStartIsNeverAfterABatch: batches that are on their way keep the start where they are, and a
// recovery finds them; with none, it follows the claims.
func TestStartIsNeverAfterABatch(t *testing.T) {
	t.Parallel()
	b := newSnapshotBench(t)
	start := func() int64 {
		return b.count("SELECT coalesce(max(batch), 0) FROM reactor.journal_starts WHERE lane = $1", b.lease.Lane)
	}
	first := b.claim(1)
	for range raiseEvery + 10 {
		b.publish(b.claim(1))
	}
	b.beat()
	if at := start(); at != first.ID {
		t.Fatalf("the journal starts at %d, the oldest batch is %d", at, first.ID)
	}
	b.publish(first)
	for range raiseEvery + 10 {
		b.publish(b.claim(1))
	}
	b.beat()
	if at := start(); at < first.ID+raiseEvery {
		t.Errorf("the journal starts at %d after %d batches", at, b.nextID)
	}
	if n := b.count("SELECT count(*) FROM reactor.journal_starts"); n != 1 {
		t.Errorf("%d starts are left", n)
	}
	last := b.claim(1)
	if found, err := b.Recover(b.ctx, b.lease); err != nil || len(found) != 1 || found[0].ID != last.ID {
		t.Errorf("recovered %v, %v", found, err)
	}
}

// TestRaiseWaitsForClaims: a claim that is under way may have a number and not yet be visible. A
// raise waits for it, and gives up where that takes long.
func TestRaiseWaitsForClaims(t *testing.T) {
	t.Parallel()
	b := newSnapshotBench(t)
	b.publish(b.claim(1))
	b.starts.claimed(b.lease.Lane, 1<<40, 0) // a number behind every batch
	tx, err := b.conn.Begin(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(b.ctx)
	// A claim as it is before its commit.
	var batch int64
	if err := tx.QueryRow(b.ctx, `
		WITH lease AS MATERIALIZED (SELECT FROM reactor.lanes WHERE lane = $1 FOR SHARE)
		INSERT INTO reactor.in_flight (lane, epoch, token, qos, first_slot, job_ids) SELECT $1, 1, gen_random_uuid(), 2, 1, '{1}' FROM lease RETURNING batch`,
		b.lease.Lane).Scan(&batch); err != nil {
		t.Fatal(err)
	}
	err = b.raiseStart(b.ctx, b.lease.Lane)
	if !waited(err) {
		t.Fatalf("the start was raised during a claim: %v", err)
	}
	raised := make(chan error, 1)
	go func() {
		for { // each try waits for longer
			if err := b.raiseStart(b.ctx, b.lease.Lane); !waited(err) {
				raised <- err
				return
			}
		}
	}()
	if err := tx.Commit(b.ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-raised; err != nil {
		t.Fatal(err)
	}
	found, err := b.Recover(b.ctx, b.lease)
	if err != nil || len(found) != 1 || found[0].ID != batch {
		t.Errorf("recovered %v, %v, want the batch %d", found, err, batch)
	}
}

// TestNumbersGoBack: a failover, or a copy without sequences, may leave a start behind the numbers
// that batches get from now on.
func TestNumbersGoBack(t *testing.T) {
	t.Parallel()
	b := newSnapshotBench(t)
	for range 20 {
		b.publish(b.claim(1))
	}
	b.beat()
	if n := b.count("SELECT count(*) FROM reactor.journal_starts WHERE batch > 5"); n != 1 {
		t.Fatalf("%d starts", n)
	}
	b.exec("ALTER TABLE reactor.in_flight ALTER COLUMN batch RESTART WITH 3")
	batch := b.claim(1)
	if batch.ID != 3 {
		t.Fatalf("the batch is %d", batch.ID)
	}
	found, err := b.Recover(b.ctx, b.lease)
	if err != nil || len(found) != 1 || found[0].ID != batch.ID {
		t.Errorf("recovered %v, %v, want the batch %d", found, err, batch.ID)
	}
	var batches []driver.Batch
	if batches, _, _, err = b.resolve(batch); err != nil || len(batches) != 1 {
		t.Errorf("resolved %v, %v", batches, err)
	}
	// A lane that somebody has deleted gets no start that is not true.
	b.exec("DELETE FROM reactor.lanes")
	if err := b.raiseStart(b.ctx, b.lease.Lane); err != nil {
		t.Fatal(err)
	}
	if n := b.count("SELECT count(*) FROM reactor.journal_starts WHERE batch > 3"); n != 0 {
		t.Error("a start was raised without a lock")
	}
	// The lane is created again, and its journal is found.
	b.beat()
	if found, err := b.Recover(b.ctx, b.lease); err != nil || len(found) != 1 {
		t.Errorf("recovered %v, %v", found, err)
	}
}

// resolve asks what became of a claim.
func (b *snapshotBench) resolve(batch driver.Batch) (list []driver.Batch, lease driver.Lease, ok bool, err error) {
	found, lease, ok, err := b.ResolveClaim(b.ctx, driver.ClaimRequest{Lease: b.lease, Token: batch.Token})
	if ok {
		list = append(list, found)
		b.lease = lease
	}
	return list, lease, ok, err
}

// TestNumbersOfAnotherServer: a raise that has waited while the database failed over says nothing with the number of a claim
// that another server has given.
func TestNumbersOfAnotherServer(t *testing.T) {
	t.Parallel()
	b := newSnapshotBench(t)
	b.publish(b.claim(1))
	b.starts.claimed(b.lease.Lane, 1<<40, b.timelines.now()+1)
	if err := b.raiseStart(b.ctx, b.lease.Lane); !errors.Is(err, errFailedOver) {
		t.Errorf("the start was raised with the number of another server: %v", err)
	}
	if n := b.count("SELECT count(*) FROM reactor.journal_starts WHERE batch >= 1::bigint << 40"); n != 0 {
		t.Error("the start is behind what is claimed from now on")
	}
}

// TestReconnectForgetsClaims: another server may count from another number.
func TestReconnectForgetsClaims(t *testing.T) {
	t.Parallel()
	b := newSnapshotBench(t)
	b.publish(b.claim(1))
	b.starts.claimed(b.lease.Lane, 1<<40, 0)
	b.reset()
	if err := b.raiseStart(b.ctx, b.lease.Lane); err != nil {
		t.Fatal(err)
	}
	if n := b.count("SELECT count(*) FROM reactor.journal_starts WHERE batch >= 1::bigint << 40"); n != 0 {
		t.Error("a number from before the connection was lost is a start")
	}
}

// TestRightsToStarts: a role that could use the journal before there were starts can use them.
func TestRightsToStarts(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	database := testkit.NewDatabase(t)
	owner := login(t, ctx, database, "")
	const role = "user_of_the_journal"
	if _, err := owner.Exec(ctx, `
		DROP TABLE reactor.journal_starts; DELETE FROM reactor.schema_version WHERE version_id = 5;
		CREATE ROLE `+role+` LOGIN; GRANT SELECT, UPDATE ON jobs TO `+role+`;
		GRANT USAGE ON SCHEMA reactor TO `+role+`; GRANT ALL ON ALL TABLES IN SCHEMA reactor TO `+role); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = owner.Exec(context.Background(), "DROP OWNED BY "+role+"; DROP ROLE "+role) })
	if _, err := MigrateUp(ctx, database); err != nil {
		t.Fatal(err)
	}
	separator := "?"
	if strings.Contains(database, "?") {
		separator = "&"
	}
	s, err := New(Config{DatabaseURL: database + separator + "user=" + role})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Open(ctx); err != nil {
		t.Error(err)
	}
}
