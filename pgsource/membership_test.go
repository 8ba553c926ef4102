package pgsource_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// quick has a TTL that is short enough for a test.
func quick(url, name string) pgsource.Config {
	return pgsource.Config{DatabaseURL: url, Name: name, TTL: 600 * time.Millisecond}
}

func beat(t *testing.T, ctx context.Context, m driver.Member) driver.Holding {
	t.Helper()
	h, err := m.Beat(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestSharesFollowTheMembers(t *testing.T) {
	b := newBench(t)
	if h := beat(t, b.ctx, b.member); h.Shards != driver.AllShards {
		t.Fatalf("alone, an instance owns %d shards", h.Shards.Len())
	}
	second, _ := b.join(open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, Name: "second"}))
	h1, h2 := beat(t, b.ctx, b.member), beat(t, b.ctx, second)
	if h1.Shards.Len() != 32 || h2.Shards.Len() != 32 || h1.Shards&h2.Shards != 0 {
		t.Fatalf("two instances own %d and %d shards", h1.Shards.Len(), h2.Shards.Len())
	}
	if len(h1.Leases) != 1 || len(h2.Leases) != 1 || h1.Leases[0].ClientID == h2.Leases[0].ClientID {
		t.Fatalf("lanes %+v and %+v", h1.Leases, h2.Leases)
	}
	if err := second.ReleaseShards(b.ctx); err != nil {
		t.Fatal(err)
	}
	if h := beat(t, b.ctx, second); h.Shards != 0 {
		t.Errorf("released shards came back: %d", h.Shards.Len())
	}
	if h := beat(t, b.ctx, b.member); h.Shards != driver.AllShards {
		t.Errorf("after the release the other owns %d shards", h.Shards.Len())
	}
	if err := second.Leave(b.ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Beat(b.ctx); !errors.Is(err, driver.ErrDeposed) {
		t.Errorf("a beat after leaving: %v", err)
	}
	// The lane that was left is used again, so that there are few client ids and they do not
	// change.
	third, lease := b.join(open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, Name: "third"}))
	defer third.Leave(b.ctx)
	if lease.ClientID != h2.Leases[0].ClientID || lease.Epoch <= h2.Leases[0].Epoch {
		t.Errorf("the third got %+v, want the second's lane %+v with a higher epoch", lease, h2.Leases[0])
	}
}

// TestMembershipWithoutNotifications: instances share the work, hand over and take over while no transaction that has
// sent a notification commits, as when the server's queue of notifications is full.
func TestMembershipWithoutNotifications(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	role, url := b.role("")
	b.grant(role)
	b.exec("REVOKE EXECUTE ON FUNCTION pg_notify(text, text) FROM PUBLIC")
	first, _ := b.join(open(t, b.ctx, pgsource.Config{DatabaseURL: url, Name: "first"}))
	second, _ := b.join(open(t, b.ctx, pgsource.Config{DatabaseURL: url, Name: "second"}))
	h1, h2 := beat(t, b.ctx, first), beat(t, b.ctx, second)
	if h1.Shards.Len() != 32 || h2.Shards.Len() != 32 || h1.Shards&h2.Shards != 0 {
		t.Errorf("two instances own %d and %d shards", h1.Shards.Len(), h2.Shards.Len())
	}
	if err := second.ReleaseShards(b.ctx); err != nil {
		t.Error(err)
	}
	if err := second.Leave(b.ctx); err != nil {
		t.Error(err)
	}
	if h := beat(t, b.ctx, first); h.Shards != driver.AllShards {
		t.Errorf("alone again, an instance owns %d shards", h.Shards.Len())
	}
}

// TestTakeOver: an instance that stops beating loses shards, lanes and journal.
func TestTakeOver(t *testing.T) {
	b := newBench(t)
	dying := open(t, b.ctx, quick(b.url, "dying"))
	deadMember, deadLease := b.join(dying)
	if err := b.member.Leave(b.ctx); err != nil {
		t.Fatal(err)
	}
	beat(t, b.ctx, deadMember)
	ids := b.insert(4, "0")
	b.lease = deadLease
	batch := b.claim(ids)

	begun := time.Now() // and from then on, or later, the successor counts how long it has been there
	successor, _ := b.join(open(t, b.ctx, quick(b.url, "successor")))
	var h driver.Holding
	for h.Shards != driver.AllShards || len(h.Leases) < 2 {
		if h = beat(t, b.ctx, successor); b.ctx.Err() != nil {
			t.Fatalf("the successor has %d shards and %d lanes", h.Shards.Len(), len(h.Leases))
		}
	}
	if took := time.Since(begun); took < 500*time.Millisecond {
		t.Errorf("took over after %v: it cannot know that soon", took)
	}
	var adopted driver.Lease
	for _, l := range h.Leases {
		if l.Lane == deadLease.Lane {
			adopted = l
		}
	}
	if adopted.Epoch <= deadLease.Epoch || adopted.ClientID != deadLease.ClientID {
		t.Fatalf("adopted %+v of %+v", adopted, deadLease)
	}
	// Its connections were terminated, so it gets that error first.
	var err error
	for err = nil; !errors.Is(err, driver.ErrDeposed); _, err = deadMember.Beat(b.ctx) {
		if b.ctx.Err() != nil {
			t.Fatalf("the deposed one's beat: %v", err)
		}
	}
	stale := b.request(b.insert(1, "0"))
	if _, err := b.Claim(b.ctx, stale); !errors.Is(err, driver.ErrLeaseLost) {
		t.Errorf("the deposed one's claim: %v", err)
	}
	// It may not settle the batches that belong to the successor now.
	b.settle(driver.Settlement{BatchID: batch.ID, Token: batch.Token, Lease: deadLease, Jobs: 4, Kept: 4, Concluded: 4, Done: true})
	recovered, err := b.Recover(b.ctx, adopted)
	if err != nil || len(recovered) != 1 || len(recovered[0].Jobs) != 4 {
		t.Errorf("the successor recovered %+v, %v", recovered, err)
	}
}

// lines is a log that several goroutines write.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) contain(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), text)
}

// TestTakeOverIsToldWhenItIsDone: nobody has taken over while the transaction that does it fails.
func TestTakeOverIsToldWhenItIsDone(t *testing.T) {
	b := newBench(t)
	b.join(open(t, b.ctx, quick(b.url, "dying")))
	var told lines
	cfg := quick(b.url, "successor")
	cfg.Logger = slog.New(slog.NewTextHandler(&told, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s, err := pgsource.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(b.ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	successor, _ := b.join(s)
	b.exec("ALTER TABLE reactor.lanes ADD CONSTRAINT stay CHECK (owner IS NOT NULL) NOT VALID")
	for err == nil {
		_, err = successor.Beat(b.ctx)
	}
	if told.contain("took over") {
		t.Errorf("the beat has failed (%v), and the log says that the successor took over", err)
	}
	b.exec("ALTER TABLE reactor.lanes DROP CONSTRAINT stay")
	for !told.contain("instance=dying") {
		beat(t, b.ctx, successor)
	}
}

// TestGoneSessionLapsesSooner: the sessions of a killed process end with it, and the others need
// not wait until its heartbeat is a whole TTL old. One whose own session began after that heartbeat
// must: the server may have crashed, and have ended the sessions of all.
func TestGoneSessionLapsesSooner(t *testing.T) {
	b := newBench(t)
	if err := b.member.Leave(b.ctx); err != nil {
		t.Fatal(err)
	}
	b.member = nil
	const ttl = 4 * time.Second
	const absence = 2500 * time.Millisecond
	killed := open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, Name: "killed", TTL: ttl})
	member, _ := b.join(killed)
	lasting, _ := b.join(open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, Name: "lasting", TTL: ttl}))
	defer lasting.Leave(b.ctx)
	old := false
	for !old { // until the session of the lasting one is older than the heartbeat of the killed one will be
		beat(t, b.ctx, lasting)
		beat(t, b.ctx, member)
		if err := b.conn.QueryRow(b.ctx, `SELECT backend_start < heartbeat_at - $1::interval FROM reactor.instances i
			JOIN pg_stat_activity ON pid = backend WHERE i.name = 'lasting'`, absence.String()).Scan(&old); err != nil {
			t.Fatal(err)
		}
	}
	fresh, _ := b.join(open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, Name: "fresh", TTL: ttl}))
	defer fresh.Leave(b.ctx)
	beat(t, b.ctx, fresh)
	beat(t, b.ctx, member)
	b.exec("UPDATE reactor.instances SET steady_since = steady_since - interval '1 hour'")
	gone := time.Now()
	b.exec("UPDATE reactor.instances SET heartbeat_at = heartbeat_at - $1::interval WHERE name = 'killed'", absence.String())
	shards := func() int {
		return b.count("SELECT count(*) FROM reactor.shards JOIN reactor.instances i ON i.id = owner WHERE i.name = 'killed'")
	}
	beat(t, b.ctx, lasting)
	had := shards()
	if had == 0 {
		t.Fatal("an instance that is late and has a living session was deposed")
	}
	killed.Close()
	b.eventually("its sessions are gone", "SELECT NOT EXISTS (SELECT FROM reactor.instances i JOIN pg_stat_activity ON pid = backend WHERE i.name = 'killed')")
	beat(t, b.ctx, fresh)
	if shards() != had {
		t.Error("an instance whose session is new deposed another one because its session is gone")
	}
	beat(t, b.ctx, lasting)
	if n := shards(); n > 0 {
		t.Errorf("an instance whose session is gone keeps %d shards", n)
	}
	if took := time.Since(gone); took > ttl-absence {
		t.Errorf("took over after %v, when the heartbeat had lapsed anyway", took)
	}
}

// TestClockSetBack: heartbeats from before the change are in the future. Living instances go on,
// and dead ones are noticed all the same, by an instance whose own steady period began in the
// future, too.
func TestClockSetBack(t *testing.T) {
	b := newBench(t)
	living, _ := b.join(open(t, b.ctx, quick(b.url, "living")))
	other, _ := b.join(open(t, b.ctx, quick(b.url, "other")))
	dead, _ := b.join(open(t, b.ctx, quick(b.url, "dead")))
	if err := b.member.Leave(b.ctx); err != nil {
		t.Fatal(err)
	}
	for range 2 { // what the first moves, the others see with their next
		for _, m := range []driver.Member{living, other, dead} {
			beat(t, b.ctx, m)
		}
	}
	b.exec("UPDATE reactor.instances SET heartbeat_at = heartbeat_at + interval '1 hour', steady_since = steady_since + interval '1 hour'")
	begun := time.Now()
	h1, h2 := beat(t, b.ctx, living), beat(t, b.ctx, other)
	if h1.Shards.Len() > 22 || h2.Shards.Len() > 22 {
		t.Fatalf("deposed at once: they own %d and %d shards", h1.Shards.Len(), h2.Shards.Len())
	}
	for h1.Shards|h2.Shards != driver.AllShards {
		if h1, h2 = beat(t, b.ctx, living), beat(t, b.ctx, other); b.ctx.Err() != nil {
			t.Fatal("a dead instance keeps its shards because the clock was set back")
		}
	}
	if took := time.Since(begun); took < 500*time.Millisecond {
		t.Errorf("took over after %v: it cannot know that soon", took)
	}
	// Its connections were terminated, so it gets that error first.
	var err error
	for err = nil; !errors.Is(err, driver.ErrDeposed); _, err = dead.Beat(b.ctx) {
		if b.ctx.Err() != nil {
			t.Fatalf("the deposed one's beat: %v", err)
		}
	}
}

// TestOutageDeposesNobody: after the database was away all heartbeats are old, and the first
// instance to return must not take everything.
func TestOutageDeposesNobody(t *testing.T) {
	b := newBench(t)
	first, _ := b.join(open(t, b.ctx, quick(b.url, "first")))
	second, _ := b.join(open(t, b.ctx, quick(b.url, "second")))
	if err := b.member.Leave(b.ctx); err != nil {
		t.Fatal(err)
	}
	beat(t, b.ctx, first)
	beat(t, b.ctx, second)
	b.exec("UPDATE reactor.instances SET heartbeat_at = heartbeat_at - interval '1 hour', steady_since = steady_since - interval '2 hours'")
	h1 := beat(t, b.ctx, first)
	h2 := beat(t, b.ctx, second)
	if h1.Shards.Len() != 32 || h2.Shards.Len() != 32 {
		t.Errorf("after the outage they own %d and %d shards", h1.Shards.Len(), h2.Shards.Len())
	}
}
