package pgsource_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
	schema "github.com/job-publisher/reactor/sql"
)

// onWAL is a bench without triggers, and the hints of a source that reads the WAL.
func onWAL(t *testing.T, url string, change func(*pgsource.Config)) (b *bench, s *pgsource.Source, hints <-chan driver.Hint, ended <-chan error) {
	t.Helper()
	b = examine(t, url)
	b.exec(schema.TriggersDown)
	cfg := pgsource.Config{DatabaseURL: b.url, Feed: pgsource.FeedWAL, Logger: testkit.Logger(t)}
	if change != nil {
		change(&cfg)
	}
	s = open(t, b.ctx, cfg)
	hints, ended = listen(t, b.ctx, s)
	return b, s, hints, ended
}

// noSlots waits until this database has no slots.
func (b *bench) noSlots() {
	b.t.Helper()
	b.eventually("no slot is left", "SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE database = current_database())")
}

// next returns the next hint.
func next(b *bench, hints <-chan driver.Hint) driver.Hint {
	b.t.Helper()
	select {
	case h := <-hints:
		return h
	case <-b.ctx.Done():
		b.t.Fatal("no hint comes")
		return driver.Hint{}
	}
}

// TestWALTellsAtTheCommit: a commit is announced whatever its fire_at was when the transaction
// wrote it, and however long the transaction was open. A trigger would have found fire_at too far
// away.
func TestWALTellsAtTheCommit(t *testing.T) {
	t.Parallel()
	b, _, hints, _ := onWAL(t, testkit.NewDatabase(t), nil)
	tx, err := b.conn.Begin(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	var id, other int64
	if err := tx.QueryRow(b.ctx, "INSERT INTO jobs (topic, fire_at) VALUES ('late', clock_timestamp() + interval '60.3 seconds') RETURNING id").Scan(&id); err != nil {
		t.Fatal(err)
	}
	// Transactions that commit meanwhile are announced meanwhile.
	conn := connect(t, b.ctx, b.url)
	if err := conn.QueryRow(b.ctx, "INSERT INTO jobs (topic, fire_at) VALUES ('prompt', now()) RETURNING id").Scan(&other); err != nil {
		t.Fatal(err)
	}
	if h := next(b, hints); h.MinID != other {
		t.Fatalf("the hint %+v, want one for %d", h, other)
	}
	if _, err := tx.Exec(b.ctx, "SELECT pg_sleep(0.4)"); err != nil { // now it is due within a minute
		t.Fatal(err)
	}
	if err := tx.Commit(b.ctx); err != nil {
		t.Fatal(err)
	}
	if h := next(b, hints); h.MinID != id || h.MaxID != id {
		t.Fatalf("the hint %+v, want one for %d", h, id)
	}
	// Transactions and savepoints that are rolled back are not announced.
	b.exec("BEGIN; INSERT INTO jobs (topic, fire_at) VALUES ('never', now()); ROLLBACK")
	if err := b.conn.QueryRow(b.ctx, "INSERT INTO jobs (topic, fire_at) VALUES ('last', now()) RETURNING id").Scan(&id); err != nil {
		t.Fatal(err)
	}
	if h := next(b, hints); h.MinID != id {
		t.Fatalf("the hint %+v, want one for %d", h, id)
	}
}

// TestWALOfLargeTransaction: it is sent while it is open, and announced once, in a few bytes. Other
// commits do not wait for it.
func TestWALOfLargeTransaction(t *testing.T) {
	t.Parallel()
	const rows = 300_000
	b, _, hints, _ := onWAL(t, testkit.NewDatabase(t), nil)
	const insert = "INSERT INTO jobs (topic, fire_at) SELECT 'bulk', now() + n * interval '1 second' FROM generate_series(1, $1::int) n"
	tx, err := b.conn.Begin(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(b.ctx, insert, rows); err != nil {
		t.Fatal(err)
	}
	second := connect(t, b.ctx, b.url)
	var other int64
	if err := second.QueryRow(b.ctx, "INSERT INTO jobs (topic, fire_at) VALUES ('prompt', now()) RETURNING id").Scan(&other); err != nil {
		t.Fatal(err)
	}
	if h := next(b, hints); h.MinID != other || h.MaxID != other {
		t.Fatalf("the hint %+v, want one for %d", h, other)
	}
	examine(t, b.url).eventually("it is sent while it is open, and not kept on the server's disk", `
		SELECT sum(stream_count) > 0 AND sum(spill_count) = 0 FROM pg_stat_replication_slots JOIN pg_replication_slots USING (slot_name)
		 WHERE database = current_database()`)
	if err := tx.Commit(b.ctx); err != nil {
		t.Fatal(err)
	}
	if h := next(b, hints); h.MaxID-h.MinID != rows-1 {
		t.Fatalf("%d rows: the hint %+v", rows, h)
	}
	// A transaction that is rolled back after most of it was sent is not announced.
	if tx, err = b.conn.Begin(b.ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(b.ctx, insert, rows); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(b.ctx); err != nil {
		t.Fatal(err)
	}
	b.exec("UPDATE jobs SET fire_at = now() WHERE id = $1", other)
	if h := next(b, hints); h.MinID != other {
		t.Fatalf("the hint %+v, want one for %d", h, other)
	}
}

// TestWALWaitsUntilItCanBeSeen: a commit that waits for a synchronous standby is in the WAL, and
// its rows are not visible. A loader that searched for them then would not find them, and would not
// search again.
func TestWALWaitsUntilItCanBeSeen(t *testing.T) {
	t.Parallel()
	url := ownBench(t, nil).url
	b, s, hints, _ := onWAL(t, url, nil)
	admin := connect(t, b.ctx, url)
	reload := func(sql string) {
		t.Helper()
		if _, err := admin.Exec(b.ctx, sql); err != nil {
			t.Fatal(err)
		}
		if _, err := admin.Exec(b.ctx, "SELECT pg_reload_conf()"); err != nil {
			t.Fatal(err)
		}
	}
	b.exec("CREATE TABLE others (n integer)")
	reload("ALTER SYSTEM SET synchronous_standby_names = 'absent'")
	// It is the checkpointer that makes commits wait, when it has read the setting, which is some time
	// after the sessions have. So others commit until one waits.
	other, commits := connect(t, b.ctx, url), make(chan error, 1)
	var waits atomic.Bool
	go func() {
		var err error
		for err == nil && !waits.Load() {
			_, err = other.Exec(b.ctx, "INSERT INTO others VALUES (1)")
		}
		commits <- err
	}()
	const waiting = "SELECT count(*) = %d FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
	b.eventually("commits wait for the standby", fmt.Sprintf(waiting, 1))
	waits.Store(true)
	hidden := make(chan error, 1)
	go func() {
		_, err := admin.Exec(b.ctx, "INSERT INTO jobs (id, topic, fire_at) VALUES (1001, 'hidden', now())")
		hidden <- err
	}()
	b.eventually("the commit waits for the standby", fmt.Sprintf(waiting, 2))
	// A commit behind it in the WAL that does not wait is announced before it.
	b.exec("SET synchronous_commit = local")
	b.exec("INSERT INTO jobs (id, topic, fire_at) VALUES (1002, 'seen', now())")
	if h := next(b, hints); h.MinID != 1002 || h.MaxID != 1002 {
		t.Fatalf("the hint %+v, want one for 1002: nobody can see 1001 yet", h)
	}
	b.exec("ALTER SYSTEM RESET synchronous_standby_names")
	b.exec("SELECT pg_reload_conf()")
	if h := next(b, hints); h.MinID != 1001 {
		t.Fatalf("the hint %+v, want one for 1001", h)
	}
	if rows, err := s.LoadIDs(b.ctx, ^driver.ShardSet(0), []int64{1001}, driver.DistantPast, 1<<62, true); err != nil || len(rows) != 1 {
		t.Errorf("the row that was told of cannot be read: %v, %v", rows, err)
	}
	for _, done := range []chan error{hidden, commits} {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestWALSenderKilled: the feed ends with a reason, its slot is dropped, and the next feed is
// established.
func TestWALSenderKilled(t *testing.T) {
	t.Parallel()
	b, s, _, ended := onWAL(t, testkit.NewDatabase(t), nil)
	b.exec("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database()")
	if text := b.ends(ended); !strings.Contains(text, "terminating connection") && !strings.Contains(text, "connection is lost") {
		t.Errorf("the feed ended with %q", text)
	}
	b.noSlots()
	hints, _ := listen(t, b.ctx, s)
	ids := b.insert(1, "1 second")
	if h := next(b, hints); h.MinID != ids[0] {
		t.Errorf("the hint %+v, want one for %d", h, ids[0])
	}
}

// TestWALConnectionSilent: nothing arrives any more, as when a firewall has forgotten the
// connection.
func TestWALConnectionSilent(t *testing.T) {
	t.Parallel()
	url := testkit.NewDatabase(t)
	proxy := testkit.NewProxy(t, url)
	b, _, _, ended := onWAL(t, url, func(cfg *pgsource.Config) {
		cfg.ListenURL, cfg.FeedCheck = proxy.Through(url), 100*time.Millisecond
	})
	proxy.Stall()
	if text := b.ends(ended); !strings.Contains(text, "nothing") {
		t.Errorf("the feed ended with %q", text)
	}
}

// TestWALOfAnotherDatabase: Config.ListenURL leads to another database, in which everything looks
// well.
func TestWALOfAnotherDatabase(t *testing.T) {
	t.Parallel()
	other := examine(t, testkit.NewDatabase(t))
	other.exec(schema.PublicationsUp)
	b, _, _, ended := onWAL(t, testkit.NewDatabase(t), func(cfg *pgsource.Config) {
		cfg.ListenURL, cfg.FeedCheck = other.url, 400*time.Millisecond
	})
	if text := b.ends(ended); !strings.Contains(text, "pgsource.Config.ListenURL leads to another database") {
		t.Errorf("the feed ended with %q", text)
	}
}

// TestWALSlotWaits: a slot exists only after the transactions that were open before it have ended.
// The feed says what it waits for, and a client that is killed meanwhile leaves no slot.
func TestWALSlotWaits(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	b.exec(schema.TriggersDown)
	tx, err := b.conn.Begin(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(b.ctx, "INSERT INTO jobs (topic, fire_at) VALUES ('open', now())"); err != nil {
		t.Fatal(err)
	}
	s := open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, Feed: pgsource.FeedWAL, FeedCheck: 200 * time.Millisecond, Logger: testkit.Logger(t)})
	hints, ended := make(chan driver.Hint, 10), make(chan error, 1)
	ctx, cancel := context.WithCancel(b.ctx)
	go func() { ended <- s.Listen(ctx, func(h driver.Hint) { hints <- h }) }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(s.FeedState().Problem, "waits for the end of transactions") {
		select {
		case <-tick.C:
		case err := <-ended:
			t.Fatalf("the feed ended with %v", err)
		case <-b.ctx.Done():
			t.Fatalf("the feed is %+v", s.FeedState())
		}
	}
	if err := tx.Commit(b.ctx); err != nil {
		t.Fatal(err)
	}
	if h := next(b, hints); h.Kind != driver.HintConnected {
		t.Errorf("the hint %+v", h)
	}
	if got := s.FeedState(); got.Problem != "" || got.Kind != "wal" {
		t.Errorf("the feed is %+v", got)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the feed ended with %v", err)
	}
	b.noSlots()
}

// TestWALIsNotHeld: the server keeps no log for an instance while only other tables are written.
func TestWALIsNotHeld(t *testing.T) {
	t.Parallel()
	url := ownBench(t, nil).url
	b, _, _, _ := onWAL(t, url, nil)
	other := connect(t, b.ctx, url)
	if _, err := other.Exec(b.ctx, "CREATE TABLE others (n int)"); err != nil {
		t.Fatal(err)
	}
	b.exec("CREATE DATABASE elsewhere")
	elsewhere := connect(t, b.ctx, strings.Replace(url, "/postgres?", "/elsewhere?", 1))
	if _, err := elsewhere.Exec(b.ctx, "CREATE TABLE others (n int)"); err != nil {
		t.Fatal(err)
	}
	for name, conn := range map[string]*pgx.Conn{"another table": other, "another database": elsewhere} {
		var before string
		if err := conn.QueryRow(b.ctx, "SELECT pg_current_wal_lsn()").Scan(&before); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if _, err := conn.Exec(b.ctx, "INSERT INTO others SELECT generate_series(1, 10000)"); err != nil {
				t.Fatal(err)
			}
		}
		var after string
		if err := conn.QueryRow(b.ctx, "SELECT pg_current_wal_lsn()").Scan(&after); err != nil {
			t.Fatal(err)
		}
		b.eventually(name+" is behind us", "SELECT bool_and(confirmed_flush_lsn >= $1::text::pg_lsn) FROM pg_replication_slots", after)
		// What is needed to begin again moves on when the server notes which transactions are
		// open: at checkpoints, and by itself four times a minute.
		b.exec("CHECKPOINT")
		b.eventually("the log of "+name+" is given free", "SELECT bool_and(restart_lsn > $1::text::pg_lsn) FROM pg_replication_slots", before)
	}
}

// TestWALGuard: a transaction that stays open makes the server keep its log. Beyond the bound the
// feed is given up.
func TestWALGuard(t *testing.T) {
	t.Parallel()
	url := ownBench(t, nil).url
	b, s, _, ended := onWAL(t, url, func(cfg *pgsource.Config) {
		cfg.MaxFeedWAL, cfg.FeedCheck = 16<<20, 500*time.Millisecond
	})
	writer := connect(t, b.ctx, url)
	tx, err := b.conn.Begin(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(b.ctx)
	if _, err := tx.Exec(b.ctx, "CREATE TABLE others (n int)"); err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Exec(b.ctx, "CREATE TABLE filler (n int); INSERT INTO filler SELECT generate_series(1, 500000)"); err != nil {
		t.Fatal(err)
	}
	if text := b.ends(ended); !strings.Contains(text, "pgsource.Config.MaxFeedWAL") {
		t.Errorf("the feed ended with %q", text)
	}
	if got := s.FeedState(); got.Kind != "" {
		t.Errorf("the feed is %+v", got)
	}
	if err := tx.Rollback(b.ctx); err != nil {
		t.Fatal(err)
	}
	b.noSlots()
}

// TestWALGuardOfOthers: a frozen instance does not limit what is kept for its slot, so another one
// ends its feed.
func TestWALGuardOfOthers(t *testing.T) {
	t.Parallel()
	url := ownBench(t, nil).url
	b := examine(t, url)
	freeze := func(slot string) {
		t.Helper()
		if _, err := connect(t, b.ctx, url).Exec(b.ctx, "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput', true)"); err != nil {
			t.Fatal(err)
		}
	}
	freeze("reactor_0a1b2c3d_1")
	freeze("reactor_app_0a1b2c3d_1") // of the deployment in schema reactor_app
	b.exec("CREATE TABLE filler (n int)")
	b.exec("INSERT INTO filler SELECT generate_series(1, 700000)")
	guard := func() {
		t.Helper()
		onWAL(t, url, func(cfg *pgsource.Config) { cfg.MaxFeedWAL, cfg.FeedCheck = 16<<20, 500*time.Millisecond })
	}
	guard()
	gone := "SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)"
	b.eventually("the slot of the frozen instance is gone", gone, "reactor_0a1b2c3d_1")
	// When another instance has ended the next one, two have left that of the other deployment alone.
	freeze("reactor_0a1b2c3d_2")
	b.exec("INSERT INTO filler SELECT generate_series(1, 700000)")
	guard()
	b.eventually("the slot of the second one is gone", gone, "reactor_0a1b2c3d_2")
	if b.count("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'reactor_app_0a1b2c3d_1'") != 1 {
		t.Error("the slot of another deployment was ended")
	}
}

// TestWALSeesPreparedTransactions: a NOTIFY trigger forbids PREPARE TRANSACTION.
func TestWALSeesPreparedTransactions(t *testing.T) {
	t.Parallel()
	url := ownBench(t, map[string]string{"max_prepared_transactions": "2"}).url
	b, _, hints, _ := onWAL(t, url, nil)
	b.exec("BEGIN")
	b.exec("INSERT INTO jobs (id, topic, fire_at) VALUES (7, 'prepared', now())")
	b.exec("PREPARE TRANSACTION 'one'")
	b.exec("INSERT INTO jobs (id, topic, fire_at) VALUES (8, 'before', now())")
	if h := next(b, hints); h.MinID != 8 {
		t.Fatalf("the hint %+v, want one for 8", h)
	}
	b.exec("COMMIT PREPARED 'one'")
	if h := next(b, hints); h.MinID != 7 {
		t.Fatalf("the hint %+v, want one for 7", h)
	}
}

// TestWALFeedOfProcessKilled: no slot remains, whatever the process was doing.
func TestWALFeedOfProcessKilled(t *testing.T) {
	const role = "REACTOR_TEST_FEED_OF"
	if url := os.Getenv(role); url != "" {
		s, err := pgsource.New(pgsource.Config{DatabaseURL: url, Feed: pgsource.FeedWAL, FeedCheck: 200 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		fmt.Println("open")
		for t.Context().Err() == nil { // a busy machine may make the feed end
			_ = s.Listen(t.Context(), func(driver.Hint) { fmt.Println("stands") })
		}
		return
	}
	t.Parallel()
	for _, when := range []string{"stands", "open"} {
		t.Run(when, func(t *testing.T) {
			b := examine(t, testkit.NewDatabase(t))
			b.exec(schema.TriggersDown)
			b.exec(schema.PublicationsUp)
			if when == "open" { // its slot waits for a transaction
				b.exec("BEGIN; INSERT INTO jobs (topic, fire_at) VALUES ('open', now())")
			}
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			p := testkit.Run(t, testkit.ProcessConfig{Path: self, Args: []string{"-test.run=^TestWALFeedOfProcessKilled$"}, Env: []string{role + "=" + b.url}})
			if _, err := p.WaitLine(b.ctx, when); err != nil {
				t.Fatal(err)
			}
			watcher := examine(t, b.url)
			watcher.eventually("the slot is there", "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE database = current_database())")
			p.Kill(t)
			watcher.noSlots()
		})
	}
}
