package reactor_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
	schema "github.com/job-publisher/reactor/sql"
)

func TestMain(m *testing.M) { testkit.Main(m, testkit.WithMigrations(pgsource.MigrateUp)) }

// world is a database, a broker, an independent subscriber, and the application that
// inserts jobs.
type world struct {
	t           *testing.T
	ctx         context.Context
	databaseURL string
	brokerURL   string
	prefix      string // of all topics
	db          *pgx.Conn
	subscriber  *check.Subscriber
	feed        pgsource.Feed // of the instances
}

// overFeeds runs a test with each feed: by the triggers, by the WAL without triggers, and with
// nothing but the sweep.
func overFeeds(t *testing.T, test func(t *testing.T, w *world)) {
	for _, feed := range []pgsource.Feed{pgsource.FeedNotify, pgsource.FeedWAL, pgsource.FeedPoll} {
		t.Run(feed.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "", "")
			w.use(feed)
			test(t, w)
		})
	}
}

// use sets the feed of the instances that are started from now on.
func (w *world) use(feed pgsource.Feed) {
	w.t.Helper()
	w.feed = feed
	if feed != pgsource.FeedNotify {
		w.exec(schema.TriggersDown)
	}
}

// newWorld uses the shared servers unless others are given.
func newWorld(t *testing.T, databaseURL, brokerURL string) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	w := &world{t: t, ctx: ctx, databaseURL: databaseURL, brokerURL: brokerURL, prefix: testkit.TopicPrefix(t)}
	if w.databaseURL == "" {
		w.databaseURL = testkit.NewDatabase(t)
	}
	if w.brokerURL == "" {
		w.brokerURL = testkit.Broker(t).URL()
	}
	w.db = w.connect()
	w.subscribe(2)
	return w
}

// subscribe replaces the judge by a new one that listens from now on.
func (w *world) subscribe(qos byte) {
	w.t.Helper()
	sub, err := check.Subscribe(w.ctx, check.SubscriberConfig{
		URL: w.brokerURL, Filter: w.prefix + "/#", QoS: qos, ClientID: "judge-" + strings.ReplaceAll(w.prefix, "/", "-"), Logger: testkit.Logger(w.t),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { sub.Close() })
	w.subscriber = sub
}

func (w *world) connect() *pgx.Conn {
	w.t.Helper()
	conn, err := pgx.Connect(w.ctx, w.databaseURL)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// instance is a Reactor that runs in this process.
type instance struct {
	*reactor.Reactor
	stop  context.CancelFunc
	ended chan error
}

// start runs an instance until stopped, at the latest at the end of the test.
func (w *world) start(cfg reactor.Config, change ...func(*pgsource.Config, *mqttsink.Config)) *instance {
	w.t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = testkit.Logger(w.t)
	}
	if w.feed == pgsource.FeedPoll && cfg.LoopFrequency == 0 {
		cfg.LoopFrequency = 100 * time.Millisecond
	}
	sourceCfg := pgsource.Config{DatabaseURL: w.databaseURL, Feed: w.feed, Logger: cfg.Logger}
	sinkCfg := mqttsink.Config{URL: w.brokerURL, Logger: cfg.Logger}
	for _, c := range change {
		c(&sourceCfg, &sinkCfg)
	}
	source, err := pgsource.New(sourceCfg)
	if err != nil {
		w.t.Fatal(err)
	}
	sink, err := mqttsink.New(sinkCfg)
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := reactor.New(source, sink, cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(w.ctx)
	in := &instance{Reactor: r, stop: stop, ended: make(chan error, 1)}
	go func() { in.ended <- r.Run(ctx) }()
	w.t.Cleanup(func() { in.halt(w.t) })
	return in
}

// halt stops the instance cleanly.
func (in *instance) halt(t *testing.T) {
	t.Helper()
	in.stop()
	err := <-in.ended
	if err != nil {
		t.Errorf("the instance ended with %v", err)
	}
	in.ended <- err // for the next call
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.db.Exec(w.ctx, sql, args...); err != nil {
		w.t.Fatal(err)
	}
}

// insert adds n jobs that fall due, evenly spread, between the two offsets from now.
func (w *world) insert(n int, from, to time.Duration) {
	w.t.Helper()
	w.exec(`INSERT INTO jobs (topic, payload, fire_at)
		SELECT $1 || '/t' || n % 10, 'payload ' || n, clock_timestamp() + ($3::bigint + ($4::bigint - $3::bigint) * n / $2) * interval '1 microsecond'
		  FROM generate_series(1, $2::bigint) n`, w.prefix, n, from.Microseconds(), to.Microseconds())
}

// judge waits until all jobs have been received, and compares the whole table with what was
// received.
func (w *world) judge() check.Report {
	w.t.Helper()
	expected, err := check.ExpectedFromDB(w.ctx, w.db, "true")
	if err != nil {
		w.t.Fatal(err)
	}
	return w.judgeThese(expected)
}

func (w *world) judgeThese(expected []check.Expected) check.Report {
	w.t.Helper()
	if err := w.subscriber.WaitDistinct(w.ctx, len(expected)); err != nil {
		w.t.Errorf("%v", err)
	}
	report := check.Compare(expected, w.subscriber.Received(), check.Config{})
	if err := report.Err(); err != nil {
		w.t.Error(err)
	}
	w.settled()
	return report
}

// settled waits until nothing is in flight any more.
func (w *world) settled() {
	w.t.Helper()
	w.eventually("the journal is empty", "SELECT NOT EXISTS (SELECT FROM reactor.in_flight)")
}

// eventually repeats a query until it returns true.
func (w *world) eventually(what, query string, args ...any) {
	w.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var ok bool
		err := w.db.QueryRow(w.ctx, query, args...).Scan(&ok)
		if err == nil && ok {
			return
		}
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatalf("waiting until %s: %v, last error %v", what, w.ctx.Err(), err)
		}
	}
}

// sharesOf waits until the dynamic instances own the shards evenly.
func (w *world) sharesOf(instances int) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("%d instances share the shards", instances), `
		SELECT count(*) = $1 AND max(n) - min(n) <= 1 AND sum(n) = 64
		  FROM (SELECT count(*) AS n FROM reactor.shards WHERE owner IS NOT NULL GROUP BY owner) s`, instances)
}
