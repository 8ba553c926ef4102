package pgsource_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor/driver"
)

// notClaimed makes sure that a claim is refused, because its lane does not know the journal of the server.
func (b *bench) notClaimed(ids []int64) {
	b.t.Helper()
	if _, err := b.Claim(b.ctx, b.request(ids)); err == nil || !strings.Contains(err.Error(), "failed over, or was restarted") || errors.As(err, new(*driver.UnknownError)) {
		b.t.Errorf("a claim with what was known of another server: %v", err)
	}
}

// readsJournal has the bench's lane read its journal, as soon as a connection leads to the new server.
func (b *bench) readsJournal() {
	b.t.Helper()
	var err error
	for b.ctx.Err() == nil {
		if _, err = b.Unsettled(b.ctx, b.lease, 1); err == nil {
			return
		}
	}
	b.t.Fatal(err)
}

// TestClaimOnAnOldConnection: between the moment at which a failover is seen and that at which the connections are cut, a
// claim may get a connection to the old primary. It is not sent, even if the lane has read the new journal already.
func TestClaimOnAnOldConnection(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ids := b.insert(2, "-1 second")
	b.FailOver(t, b.lease.Lane)
	b.notClaimed(ids)
	if _, err := b.Unsettled(b.ctx, b.lease, 1); err == nil {
		t.Error("the journal of the old primary counts as that of the new one")
	}
	if n := b.count("SELECT count(*) FROM jobs WHERE processed"); n != 0 {
		t.Errorf("%d jobs are claimed", n)
	}
}

// TestAnswerOfAServerThatWasLeft: a claim under way at the old primary is answered when the new one is known already. Whether
// its jobs are ours, the journal of the new one says.
func TestAnswerOfAServerThatWasLeft(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ids := b.insert(2, "-1 second")
	release := b.triggerWaits()
	req, answer := b.request(ids), make(chan error, 1)
	go func() {
		_, err := b.Claim(b.ctx, req)
		answer <- err
	}()
	b.eventually("the claim waits", "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'held'::regclass)")
	b.FailOver(t, b.lease.Lane)
	release()
	if err := <-answer; !errors.As(err, new(*driver.UnknownError)) {
		t.Errorf("a claim that the old primary has answered: %v", err)
	}
	// Here the new one is the same, as if it had all commits.
	if batch, _, happened, err := b.ResolveClaim(b.ctx, req); err != nil || !happened || len(batch.Jobs) != 2 {
		t.Errorf("resolved %+v, %v, %v", batch, happened, err)
	}
}

// TestSettledAtAServerThatWasLeft: a settlement that the old primary has answered when the new one is known already is made
// there as well. Otherwise the new one would list messages as unsettled that were released.
func TestSettledAtAServerThatWasLeft(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	batch := b.claim(b.insert(1, "-1 second"))
	tx, err := connect(t, b.ctx, b.url).Begin(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(b.ctx)
	if _, err := tx.Exec(b.ctx, "SELECT FROM reactor.in_flight FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	answer := make(chan error, 1)
	go func() {
		_, err := b.Settle(b.ctx, []driver.Settlement{{BatchID: batch.ID, Token: batch.Token, Lease: b.lease, Jobs: 1, Kept: 1, Concluded: 1, Done: true}})
		answer <- err
	}()
	b.eventually("the settlement waits", "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'transactionid' AND datname = current_database())")
	b.FailOver(t, b.lease.Lane)
	if err := tx.Rollback(b.ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; err == nil || !strings.Contains(err.Error(), "failed over, or was restarted") {
		t.Errorf("a settlement that the old primary has answered: %v", err)
	}
}

// TestAsideAtAFormerPrimary: what an instance does over connections of their own goes to no former primary either, even if that
// is the first of the hosts.
func TestAsideAtAFormerPrimary(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.FailOver(t, b.lease.Lane)
	publish, maintain := b.OnAside(b.ctx)
	for _, err := range []error{publish, maintain} {
		if err == nil || !strings.Contains(err.Error(), "former primary") {
			t.Errorf("at a former primary: %v", err)
		}
	}
	if n := b.count("SELECT count(*) FROM pg_publication"); n != 0 {
		t.Errorf("%d publications were made there", n)
	}
}

// TestFailoverBehindPooler: a pooler keeps our connections, and goes over to a standby, back, and over to it again when it was
// promoted. Nothing is read from the standby, and the primary is not taken for one that was left. After the promotion the first
// statement notices; nothing is claimed before the lane has read its journal there.
func TestFailoverBehindPooler(t *testing.T) {
	t.Parallel()
	primary := testkit.OwnPostgres(t, ownServer)
	behind := testkit.NewProxy(t, primary.URL())
	pooler := testkit.OwnPgBouncer(t, stack.PgBouncerConfig{Target: primary, Address: behind.Addr()})
	b := examine(t, primary.URL())
	b.migrateUp(b.url)
	standby := testkit.Standby(t, primary)
	front := testkit.NewProxy(t, pooler.URL())
	b.start(front.Through(pooler.URL()))
	b.published(b.claim(b.insert(1, "-1 second")))
	ids := b.insert(2, "-1 second")
	behind.Retarget(fmt.Sprint("127.0.0.1:", standby.Port()))
	behind.Reset()
	if at, err := b.Settled(b.ctx); err == nil {
		t.Errorf("what the standby knows counts: %v", at)
	}
	// The pooler may go over between two questions.
	if err := b.LookAt(t, standby.URL()); err != nil {
		t.Fatal(err)
	}
	behind.Retarget(fmt.Sprint("127.0.0.1:", primary.Port()))
	behind.Reset()
	b.eventuallyBeats()
	if err := b.LookAt(t, primary.URL()); err != nil {
		t.Errorf("the primary is refused: %v", err)
	}
	if err := standby.CatchUp(b.ctx, primary); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(b.ctx); err != nil {
		t.Fatal(err)
	}
	behind.Retarget(fmt.Sprint("127.0.0.1:", standby.Port()))
	behind.Reset()
	if front.Open() == 0 {
		t.Fatal("the pooler has not kept our connections")
	}
	b.notClaimed(ids)
	b.eventuallyBeats()
	if n := b.FeedState().Failovers; n != 1 {
		t.Errorf("%d failovers are counted", n)
	}
	b.notClaimed(ids)
	b.readsJournal()
	if batch := b.claim(ids); len(batch.Jobs) != 2 {
		t.Errorf("claimed %+v", batch)
	}
	// The pooler goes back to the old primary, which still takes writes.
	behind.Retarget(fmt.Sprint("127.0.0.1:", primary.Port()))
	behind.Reset()
	for why := ""; !strings.Contains(why, "a former primary"); {
		_, err := b.Settle(b.ctx, []driver.Settlement{{Lease: b.lease, Jobs: 1}})
		if err == nil || b.ctx.Err() != nil {
			t.Fatalf("a settlement at a former primary says %v", err)
		}
		why = err.Error()
	}
}

// TestPoolerComesBetween: a name that led to the server leads to a pooler. Nothing is said there that would hold for the sessions of
// other clients.
func TestPoolerComesBetween(t *testing.T) {
	t.Parallel()
	server := testkit.Postgres(t)
	b := examine(t, testkit.NewDatabase(t))
	proxy := testkit.NewProxy(t, b.url)
	b.start(proxy.Through(b.url))
	pooler := testkit.OwnPgBouncer(t, stack.PgBouncerConfig{Target: server, ExtraLines: []string{
		"ignore_startup_parameters = statement_timeout,lock_timeout,idle_session_timeout,idle_in_transaction_session_timeout",
	}})
	at, err := url.Parse(pooler.URL())
	if err != nil {
		t.Fatal(err)
	}
	proxy.Retarget(at.Host)
	proxy.Reset()
	for why := ""; !strings.Contains(why, "leads through a pooler now"); {
		_, err := b.member.Beat(b.ctx)
		if err == nil || b.ctx.Err() != nil {
			t.Fatalf("a beat through a pooler says %v", err)
		}
		why = err.Error()
	}
}

// TestTwoServersOnOneTimeline: two servers with the same identifier and on the same timeline take writes, as two standbys do that
// were promoted from one primary. The other one is found, nothing is claimed there before the journal was read, and there is no
// way back.
func TestTwoServersOnOneTimeline(t *testing.T) {
	t.Parallel()
	one := testkit.OwnPostgres(t, ownServer)
	b := examine(t, one.URL())
	b.migrateUp(b.url)
	proxy := testkit.NewProxy(t, one.URL())
	b.start(proxy.Through(b.url))
	ids := b.insert(2, "-1 second")
	other := testkit.Copy(t, one)
	proxy.Retarget(fmt.Sprint("127.0.0.1:", other.Port()))
	proxy.Reset()
	b.eventuallyBeats()
	b.notClaimed(ids)
	b.readsJournal()
	if batch := b.claim(ids); len(batch.Jobs) != 2 {
		t.Errorf("claimed %+v", batch)
	}
	if n := b.FeedState().Failovers; n != 0 {
		t.Errorf("%d failovers are counted, and it may have been a restart", n)
	}
	proxy.Retarget(fmt.Sprint("127.0.0.1:", one.Port()))
	proxy.Reset()
	for why := ""; !strings.Contains(why, "two servers on timeline 1 take writes"); {
		_, err := b.member.Beat(b.ctx)
		if err == nil || b.ctx.Err() != nil {
			t.Fatalf("a beat at the server that was left says %v", err)
		}
		why = err.Error()
	}
}

// TestDatabaseIsReplaced: another database gets the name in the URL, as one that was restored beside it, directly or behind a pooler.
// The membership ends, and no lane of it takes up what the other database lists as its own. The next membership checks the database as
// a start does.
func TestDatabaseIsReplaced(t *testing.T) {
	t.Parallel()
	t.Run("directly", func(t *testing.T) {
		t.Parallel()
		databaseIsReplaced(t, func(url string) string { return url })
	})
	t.Run("behind a pooler", func(t *testing.T) {
		t.Parallel()
		pooler := testkit.OwnPgBouncer(t, stack.PgBouncerConfig{Target: testkit.Postgres(t)})
		databaseIsReplaced(t, func(url string) string { return pooler.DatabaseURL(databaseName(url)) })
	})
}

func databaseName(url string) string {
	return url[strings.LastIndex(url, "/")+1 : strings.Index(url, "?")]
}

func databaseIsReplaced(t *testing.T, through func(url string) string) {
	b := examine(t, testkit.NewDatabase(t))
	b.start(through(b.url))
	was := b.name()
	other := examine(t, testkit.NewDatabase(t))
	// A dump would contain the same.
	other.exec("UPDATE reactor.deployment SET (name, system_identifier, database) = ($1, (SELECT system_identifier FROM pg_control_system()), (SELECT oid FROM pg_database WHERE datname = $2))", was, databaseName(b.url))
	other.exec("INSERT INTO reactor.lanes (lane, owner, epoch) VALUES ($1, $2, $3)", b.lease.Lane, b.lease.Owner, b.lease.Epoch)
	admin := connect(t, b.ctx, testkit.Postgres(t).URL())
	for _, sql := range []string{
		"ALTER DATABASE %[1]s ALLOW_CONNECTIONS false", "ALTER DATABASE %[2]s ALLOW_CONNECTIONS false",
		"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname IN ('%[1]s', '%[2]s')",
		"ALTER DATABASE %[1]s RENAME TO %[1]s_was", "ALTER DATABASE %[2]s RENAME TO %[1]s", "ALTER DATABASE %[1]s_was RENAME TO %[2]s",
		"ALTER DATABASE %[1]s ALLOW_CONNECTIONS true", "ALTER DATABASE %[2]s ALLOW_CONNECTIONS true",
	} {
		if _, err := admin.Exec(b.ctx, fmt.Sprintf(sql, databaseName(b.url), databaseName(other.url))); err != nil {
			t.Fatal(err)
		}
	}
	b.conn = connect(t, b.ctx, b.url)
	ids := b.insert(2, "-1 second")
	for {
		_, err := b.member.Beat(b.ctx)
		if errors.Is(err, driver.ErrDeposed) {
			if !strings.Contains(err.Error(), "another one than before") {
				t.Errorf("it says %v", err)
			}
			break
		}
		if err == nil || b.ctx.Err() != nil {
			t.Fatalf("a beat in another database says %v", err)
		}
	}
	b.notClaimed(ids)
	for b.ctx.Err() == nil {
		_, err := b.Unsettled(b.ctx, b.lease, 1)
		if errors.Is(err, driver.ErrLeaseLost) {
			break
		}
		if err == nil {
			t.Fatal("the journal of another database counts as ours")
		}
	}
	if batches, err := b.Recover(b.ctx, b.lease); !errors.Is(err, driver.ErrLeaseLost) {
		t.Errorf("recovered %+v from another database: %v", batches, err)
	}
	b.member, b.lease = b.join(b.Source)
	if now := b.name(); now == was || b.lease.ClientID != fmt.Sprint("reactor-", now, "-", b.lease.Lane) {
		t.Errorf("it is called %s, was %s, and the client id is %s", now, was, b.lease.ClientID)
	}
	b.readsJournal()
	if batch := b.claim(ids); len(batch.Jobs) != 2 {
		t.Errorf("claimed %+v", batch)
	}
}
