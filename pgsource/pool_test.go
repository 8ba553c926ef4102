package pgsource

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/testkit"
)

// poolBench is a pool on a database of its own, whose connections are counted from outside.
type poolBench struct {
	*pool
	t     *testing.T
	ctx   context.Context
	admin *pgx.Conn
	mark  string // the application_name of the pool's connections
	short atomic.Int64
}

func newPoolBench(t *testing.T, role string, most int, idleTime time.Duration) *poolBench {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	database := testkit.NewDatabase(t)
	b := &poolBench{t: t, ctx: ctx, admin: login(t, ctx, database, ""), mark: "pool-" + strings.ReplaceAll(t.Name(), "/", "-")}
	if role != "" {
		name := fmt.Sprintf("pool_%d", time.Now().UnixNano())
		b.exec("CREATE ROLE " + name + " LOGIN " + role)
		t.Cleanup(func() { _, _ = b.admin.Exec(context.Background(), "DROP ROLE "+name) })
		u, err := url.Parse(database)
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		q.Set("user", name)
		u.RawQuery = q.Encode()
		database = u.String()
	}
	connect, lifetime, jitter, err := poolParameters(database)
	if err != nil {
		t.Fatal(err)
	}
	connect.RuntimeParams["application_name"] = b.mark
	b.pool = newPool(ctx, poolConfig{
		connect: func(ctx context.Context) (*pgx.Conn, error) { return pgx.ConnectConfig(ctx, connect.Copy()) }, most: most, idleTime: idleTime, keepTime: 20 * idleTime, lifetime: lifetime, jitter: jitter,
		setUp: func(context.Context, *pgx.Conn) error { return nil },
		short: func(int, error) { b.short.Add(1) },
	})
	t.Cleanup(b.pool.close)
	return b
}

func (b *poolBench) exec(sql string) {
	b.t.Helper()
	if _, err := b.admin.Exec(b.ctx, sql); err != nil {
		b.t.Fatal(err)
	}
}

// sessions counts the pool's sessions at the server.
func (b *poolBench) sessions() (n int) {
	b.t.Helper()
	if err := b.admin.QueryRow(b.ctx, "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", b.mark).Scan(&n); err != nil {
		b.t.Fatal(err)
	}
	return n
}

func (b *poolBench) eventually(what string, ok func() bool) {
	b.t.Helper()
	for !ok() {
		select {
		case <-b.ctx.Done():
			b.t.Fatalf("%s: it does not happen", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (b *poolBench) take() *pooledConn {
	b.t.Helper()
	conn, err := b.acquire(b.ctx, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	return conn
}

// TestPoolGrowsAndShrinks: as many connections as statements run at once, and one when they have
// not been needed for a while.
func TestPoolGrowsAndShrinks(t *testing.T) {
	b := newPoolBench(t, "", 4, 150*time.Millisecond)
	if n := b.sessions(); n != 0 {
		t.Fatalf("%d sessions before the first statement", n)
	}
	held := []*pooledConn{b.take(), b.take(), b.take(), b.take()}
	if n := b.sessions(); n != 4 {
		t.Errorf("%d sessions for four statements", n)
	}
	// The fifth takes the first that is released.
	got := make(chan *pooledConn)
	go func() {
		conn, _ := b.acquire(b.ctx, 0)
		got <- conn
	}()
	b.eventually("it waits", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.waiting) == 1
	})
	b.release(held[0])
	if conn := <-got; conn != held[0] {
		t.Error("it has got another connection than the one that was released")
	}
	for _, conn := range held {
		b.release(conn)
	}
	// A statement now and then uses one connection, and the others are closed.
	b.eventually("one is left", func() bool {
		b.release(b.take())
		return b.sessions() == 1
	})
	b.expect(3)
	b.eventually("three are opened ahead", func() bool { return b.sessions() == 3 })
	begun := time.Now()
	b.eventually("they are closed", func() bool { return b.sessions() == 1 })
	if kept := time.Since(begun); kept < 5*b.config.idleTime {
		t.Errorf("connections for work that is expected are kept for %v", kept)
	}
	before := b.take()
	b.release(before)
	if again := b.take(); again != before {
		t.Error("the connection that was used last is not the one that is used next")
	} else {
		b.release(again)
	}
}

// TestPoolTakesWhicheverComesFirst: a statement does not wait for a connection of its own if one is
// released before.
func TestPoolTakesWhicheverComesFirst(t *testing.T) {
	b := newPoolBench(t, "", 2, time.Minute)
	opened := make(chan struct{})
	first := b.take()
	b.config.setUp = func(ctx context.Context, _ *pgx.Conn) error { // the second takes as long as the test
		select {
		case <-opened:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	got := make(chan *pooledConn)
	go func() {
		conn, _ := b.acquire(b.ctx, 0)
		got <- conn
	}()
	b.eventually("another is being opened", func() bool { return b.sessions() == 2 })
	b.release(first)
	if conn := <-got; conn != first {
		t.Error("it has got another connection than the one that was released")
	}
	b.release(first)
	close(opened)
}

// TestPatience: a statement that may wait has no connection opened for it at once, and after its
// patience it has.
func TestPatience(t *testing.T) {
	b := newPoolBench(t, "", 2, time.Minute)
	first := b.take()
	got := make(chan *pooledConn)
	wait := func(patience time.Duration) {
		go func() {
			conn, _ := b.acquire(b.ctx, patience)
			got <- conn
		}()
	}
	wait(time.Hour)
	b.eventually("it waits", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.waiting) == 1
	})
	b.release(first)
	if conn := <-got; conn != first || b.sessions() != 1 {
		t.Errorf("there are %d sessions", b.sessions())
	}
	wait(time.Millisecond)
	second := <-got
	if second == first || b.sessions() != 2 {
		t.Errorf("there are %d sessions", b.sessions())
	}
	b.release(first)
	b.release(second)
}

// TestPoolOfAFullServer: when the server has no connection left, the statements share those that
// there are, and if there is none they are told why.
func TestPoolOfAFullServer(t *testing.T) {
	b := newPoolBench(t, "CONNECTION LIMIT 2", 4, time.Minute)
	one, two := b.take(), b.take()
	got := make(chan *pooledConn)
	go func() {
		conn, err := b.acquire(b.ctx, 0)
		if err != nil {
			t.Error(err)
		}
		got <- conn
	}()
	b.eventually("the shortage is reported", func() bool { return b.short.Load() > 0 })
	b.release(two)
	if conn := <-got; conn != two {
		t.Error("it has got another connection than the one that was released")
	}
	b.release(one)
	b.release(two)

	full := newPoolBench(t, "CONNECTION LIMIT 0", 4, time.Minute)
	if _, err := full.acquire(full.ctx, 0); sqlState(err) != pgerrcode.TooManyConnections {
		t.Errorf("without any connection it says %v", err)
	}
}

// TestPoolReset: connections from before a reset are not used again, nor are those on which a
// statement was given up or a transaction is open.
func TestPoolReset(t *testing.T) {
	b := newPoolBench(t, "", 3, time.Minute)
	idle, used := b.take(), b.take()
	b.release(idle)
	b.reset()
	b.release(used)
	fresh := b.take()
	if fresh == idle || fresh == used {
		t.Error("a connection from before the reset is used")
	}
	if _, err := fresh.Exec(b.ctx, "BEGIN"); err != nil {
		t.Fatal(err)
	}
	b.release(fresh)
	other := b.take()
	if other == fresh {
		t.Error("a connection inside a transaction is used")
	}
	cut, cancel := context.WithCancel(b.ctx)
	go func() {
		defer cancel()
		for running := false; !running; {
			err := b.admin.QueryRow(b.ctx, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = $1 AND query LIKE 'SELECT pg_sleep%')", b.mark).Scan(&running)
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	if _, err := other.Exec(cut, "SELECT pg_sleep(60)"); err == nil {
		t.Error("the statement was not given up")
	}
	b.release(other)
	if again := b.take(); again == other {
		t.Error("a broken connection is used")
	} else {
		b.release(again)
	}
	b.eventually("what is not used is closed", func() bool { return b.sessions() == 1 })
}

// TestPoolReplacesOldConnections without a statement waiting for it.
func TestPoolReplacesOldConnections(t *testing.T) {
	b := newPoolBench(t, "", 2, time.Minute)
	b.config.lifetime, b.config.jitter = 50*time.Millisecond, 0
	first := b.take()
	b.eventually("it is too old", func() bool { return time.Now().After(first.expires) })
	b.release(first)
	b.eventually("its successor is there", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.idle) == 1 && b.idle[0] != first
	})
}

// TestClosedPool: who waits is told, and nothing is left open.
func TestClosedPool(t *testing.T) {
	b := newPoolBench(t, "", 1, time.Minute)
	conn := b.take()
	ended := make(chan error)
	go func() {
		_, err := b.acquire(b.ctx, 0)
		ended <- err
	}()
	b.eventually("it waits", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.waiting) == 1
	})
	b.pool.close()
	if err := <-ended; !errors.Is(err, errPoolClosed) {
		t.Errorf("who waits is told %v", err)
	}
	b.release(conn)
	if _, err := b.acquire(b.ctx, 0); !errors.Is(err, errPoolClosed) {
		t.Errorf("a closed pool says %v", err)
	}
	b.eventually("all sessions end", func() bool { return b.sessions() == 0 })
}
