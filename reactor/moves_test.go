package reactor_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// moveTo has a proxy lead to another server, and ends what leads to the one before.
func moveTo(proxy *netfault.Proxy, server *stack.Postgres) {
	proxy.Retarget(fmt.Sprint("127.0.0.1:", server.Port()))
	proxy.Reset()
}

// TestMoves: an instance with the WAL feed follows the database. First to a standby that was promoted, on which there is no slot
// of the feed, then to another cluster, whose timeline is a lower one again, as after pg_upgrade or a restored dump. There it
// takes another name. It does not follow a name that leads back.
func TestMoves(t *testing.T) {
	t.Parallel()
	primary := testkit.OwnPostgres(t, stack.PostgresConfig{Trust: true})
	w := newWorldOn(t, primary)
	w.use(pgsource.FeedWAL)
	proxy := testkit.NewProxy(t, primary.URL())
	direct := w.databaseURL
	w.databaseURL = proxy.Through(direct)
	in, book := w.startLogged(reactor.Config{})
	w.until("the feed reads the WAL", func() bool { return in.Stats().Feed.Kind == "wal" })
	standby := testkit.Standby(t, primary)
	w.insert(500, 0, 300*time.Millisecond)
	if err := standby.CatchUp(w.ctx, primary); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(w.ctx); err != nil {
		t.Fatal(err)
	}
	moveTo(proxy, standby)
	w.db = w.connect()
	w.until("the feed reads the WAL of the new primary", func() bool { return in.Stats().Feed.Failovers == 1 && in.Stats().Feed.Kind == "wal" })
	announced := in.Stats().Loads
	w.insert(200, 100*time.Millisecond, 200*time.Millisecond)
	w.published() // those of the old primary's last moments perhaps twice
	if in.Stats().Loads == announced {
		t.Error("nothing was read that the feed has announced")
	}

	// A dump of the database is restored into another cluster.
	cluster := testkit.OwnPostgres(t, stack.PostgresConfig{Trust: true})
	there := newWorldOn(t, cluster)
	was := there.copyDeployment(w)
	there.insert(300, 0, 300*time.Millisecond)
	moveTo(proxy, cluster)
	there.judge()
	if now := there.deployment(); now == was {
		t.Errorf("the copy is called %s as the original", now)
	}
	if n := in.Stats().Feed.Failovers; n != 2 {
		t.Errorf("%d of 2 moves were counted", n)
	}
	moveTo(proxy, standby)
	w.until("the cluster that was left is refused", func() bool { return len(book.lines("which was made before the one")) > 0 })
	moveTo(proxy, cluster)
	there.insert(100, 0, 0)
	there.judge()
	in.halt(t) // before its servers
}

// copyDeployment makes the database look like a restored dump of another world's, and returns the name of that.
func (w *world) copyDeployment(from *world) (name string) {
	w.t.Helper()
	var (
		system   int64
		database uint32
	)
	if err := from.db.QueryRow(from.ctx, "SELECT name, system_identifier, database FROM reactor.deployment").Scan(&name, &system, &database); err != nil {
		w.t.Fatal(err)
	}
	w.exec("UPDATE reactor.deployment SET (name, system_identifier, database) = ($1, $2, $3)", name, system, database)
	return name
}

// deployment returns the name of the deployment.
func (w *world) deployment() (name string) {
	w.t.Helper()
	if err := w.db.QueryRow(w.ctx, "SELECT name FROM reactor.deployment").Scan(&name); err != nil {
		w.t.Fatal(err)
	}
	return name
}

// TestPromotionBesideALivePrimary: an asynchronous standby is promoted while its primary goes on, and the instances with it, until
// that is fenced. Then they go on at the new one by themselves. It counts as one failover; what the new one did not know to be
// published is published again, and nothing that it has is lost. The old one gets no connection any more.
func TestPromotionBesideALivePrimary(t *testing.T) {
	t.Parallel()
	primary := testkit.OwnPostgres(t, stack.PostgresConfig{Trust: true})
	w := newWorldOn(t, primary)
	standby := testkit.Standby(t, primary)
	old := testkit.NewProxy(t, primary.URL())
	hosts := strings.Replace(standby.URL(), "127.0.0.1:", old.Addr()+",127.0.0.1:", 1)
	both := func(s *pgsource.Config, _ *mqttsink.Config) { s.DatabaseURL = hosts }
	instances := []*instance{w.start(reactor.Config{}, both), w.start(reactor.Config{}, both)}
	w.sharesOf(2)
	w.insert(2000, 0, 1500*time.Millisecond)
	if err := standby.CatchUp(w.ctx, primary); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(w.ctx); err != nil {
		t.Fatal(err)
	}
	// Both take writes. The old primary goes on to have its jobs published.
	split := w.subscriber.Progress().Distinct
	if err := w.subscriber.WaitDistinct(w.ctx, split+500); err != nil {
		t.Fatal(err)
	}
	old.Refuse()
	old.Reset()
	w.databaseURL = standby.URL()
	w.db = w.connect()
	w.published()
	for i, in := range instances {
		if n := in.Stats().Feed.Failovers; n != 1 {
			t.Errorf("instance %d counts %d failovers", i, n)
		}
	}
	// The old one can be reached again. The new one is restarted, so that all connections are made again.
	if err := old.Accept(); err != nil {
		t.Fatal(err)
	}
	used := old.Open()
	if err := standby.Restart(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.db = w.connect()
	w.insert(200, 0, 0)
	w.published()
	w.until("no connection leads to the old primary", func() bool { return old.Open() <= used })
}
