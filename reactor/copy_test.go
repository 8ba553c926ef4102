package reactor_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// TestTwoCopiesOnOneBroker: a physical copy of a running database is started beside it. The two
// notice each other only because each takes the other's MQTT sessions over. They stop doing
// that, and log it. When one has gone, no message of either is lost.
func TestTwoCopiesOnOneBroker(t *testing.T) {
	for _, delivery := range []reactor.Delivery{reactor.ExactlyOnce, reactor.AtLeastOnce} {
		t.Run(delivery.String(), func(t *testing.T) {
			t.Parallel()
			twoCopiesOnOneBroker(t, delivery)
		})
	}
}

func twoCopiesOnOneBroker(t *testing.T, delivery reactor.Delivery) {
	broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{})
	server := testkit.OwnPostgres(t, stack.PostgresConfig{Trust: true})
	if _, err := pgsource.MigrateUp(t.Context(), server.URL()); err != nil {
		t.Fatal(err)
	}
	one := newWorld(t, server.URL(), broker.URL())
	// The name is given by the first start.
	one.start(reactor.Config{Delivery: delivery}).halt(t)
	other := newWorld(t, testkit.Copy(t, server).URL(), broker.URL())
	proxy := testkit.NewProxy(t, broker.URL())
	wire := tap(proxy)
	first, firstBook := one.startLogged(reactor.Config{Delivery: delivery}, one.through(proxy))
	second, secondBook := other.startLogged(reactor.Config{Delivery: delivery}, other.through(proxy))
	one.insert(3000, 0, 5*time.Second)
	other.insert(3000, 0, 5*time.Second)
	one.until("a lane is left alone", func() bool { return first.Stats().Contested+second.Stats().Contested > 0 })
	if n := len(firstBook.lines("pgsource.Config.Deployment")) + len(secondBook.lines("pgsource.Config.Deployment")); n == 0 {
		t.Error("no log line says what to do about it")
	}
	one.until("each of the two lanes is left alone by one of them", func() bool {
		return first.Stats().Contested+second.Stats().Contested >= 2
	})
	// 20 to 80 are usual, and up to 190 were seen where six of these fights shared two cores. Without
	// the pauses between attempts to have a session of one's own, there were up to 260. If the
	// lanes did not stop, there would be twenty a second without an end.
	if n := wire.count(packets.CONNECT, ofLane); n > 400 {
		t.Errorf("the lanes have connected %d times before they stopped", n)
	}
	// One after the other they finish what they had begun.
	first.stop()
	second.stop()
	first.halt(t)
	second.halt(t)
	connects := wire.count(packets.CONNECT, ofLane)
	for _, w := range []*world{one, other} {
		last := w.start(reactor.Config{Delivery: delivery})
		w.published()
		last.halt(t)
	}
	t.Logf("%d connections of lanes", connects)
}

// TestRestoredCopyHasItsOwnName: a database restored from a dump, in another cluster, is
// recognized as a copy, whatever it has in common with the original.
func TestRestoredCopyHasItsOwnName(t *testing.T) {
	t.Parallel()
	broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{})
	one := newWorld(t, "", broker.URL())
	proxy := testkit.NewProxy(t, broker.URL())
	wire := tap(proxy)
	first := one.start(reactor.Config{}, one.through(proxy))
	one.sharesOf(1)
	other := newWorld(t, "", broker.URL())
	var (
		name   string
		system int64
	)
	if err := one.db.QueryRow(one.ctx, "SELECT name, system_identifier FROM reactor.deployment").Scan(&name, &system); err != nil {
		t.Fatal(err)
	}
	// A dump would contain the same: the name, and the cluster and oid of the original.
	err := pgx.BeginFunc(other.ctx, other.db, func(tx pgx.Tx) error {
		_, err := tx.Exec(other.ctx, `UPDATE reactor.deployment SET name = $1, system_identifier = $2,
			database = (SELECT oid FROM pg_database WHERE datname = current_database())`, name, system+1)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	second := other.start(reactor.Config{}, other.through(proxy))
	one.insert(2000, 0, 2*time.Second)
	other.insert(2000, 0, 2*time.Second)
	one.judge()
	other.judge()
	lanes := map[string]int{}
	for _, p := range wire.all() {
		if p.kind == packets.CONNECT && ofLane(p) {
			lanes[p.client]++
		}
	}
	if len(lanes) != 6 {
		t.Errorf("the lanes connected as %v, want three of each deployment", lanes)
	}
	for _, in := range []*instance{first, second} {
		if s := in.Stats(); s.Contested != 0 || s.LanesUp != s.Lanes {
			t.Errorf("contested %d, up %d", s.Contested, s.LanesUp)
		}
	}
}
