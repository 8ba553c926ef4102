package reactor_test

import (
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// deadConnection bounds how late jobs may be after connections went dead without being closed:
// a statement is given up after 5 s at the latest, and is then repeated.
const deadConnection = 8 * time.Second

// TestDatabaseBlackHole: all connections of an instance to the database go dead at once, claims
// and settlements included, and new ones work. Jobs are late by the deadlines of the statements
// at most; none is lost, none is published twice.
func TestDatabaseBlackHole(t *testing.T) {
	for name, instances := range map[string]int{"one instance": 1, "one of two": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "", "")
			proxy := testkit.NewProxy(t, w.databaseURL)
			w.start(reactor.Config{}, func(s *pgsource.Config, _ *mqttsink.Config) { s.DatabaseURL = proxy.Through(w.databaseURL) })
			if instances > 1 {
				w.start(reactor.Config{})
			}
			w.sharesOf(instances)
			// So few that a busy machine is not behind before the connections go dead.
			w.insert(1500, time.Second, 3*time.Second)
			if err := w.subscriber.WaitDistinct(w.ctx, 300); err != nil {
				t.Fatal(err)
			}
			// Statements that are under way now get no answer, and their locks stay with
			// sessions that nobody can reach.
			before := proxy.Discarded(netfault.ToServer)
			proxy.BlackHole()
			if err := proxy.WaitDiscarded(w.ctx, netfault.ToServer, before+1); err != nil {
				t.Fatal(err)
			}
			report := w.judge()
			if report.MaxLateness > deadConnection {
				t.Errorf("the latest job is %v late", report.MaxLateness)
			}
			t.Logf("the latest job is %v late", report.MaxLateness)
		})
	}
}

// TestBrokerBlackHole does the same with the connections to the broker.
func TestBrokerBlackHole(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	proxy := testkit.NewProxy(t, w.brokerURL)
	// A proxy cannot keep the kernel from acknowledging what it reads, so TCP does not notice.
	// The client gives up after a silence of one and a half keep-alives.
	w.start(reactor.Config{}, w.through(proxy), func(_ *pgsource.Config, s *mqttsink.Config) { s.KeepAlive = 2 * time.Second })
	w.sharesOf(1)
	w.insert(4000, 0, 2*time.Second)
	if err := w.subscriber.WaitDistinct(w.ctx, 1000); err != nil {
		t.Fatal(err)
	}
	proxy.BlackHole()
	report := w.judge()
	if report.MaxLateness > deadConnection {
		t.Errorf("the latest job is %v late", report.MaxLateness)
	}
	t.Logf("the latest job is %v late", report.MaxLateness)
}

// TestPrimaryTurnsReadOnly: for some seconds the server takes no writes, like a server that was
// demoted. Its connections are useless then; when it takes writes again, everything goes on.
func TestPrimaryTurnsReadOnly(t *testing.T) {
	t.Parallel()
	server := testkit.OwnPostgres(t, stack.PostgresConfig{Trust: true})
	w := newWorldOn(t, server)
	in, book := w.startLogged(reactor.Config{})
	w.start(reactor.Config{})
	w.sharesOf(2)
	w.insert(6000, 0, 4*time.Second)
	if err := w.subscriber.WaitDistinct(w.ctx, 1000); err != nil {
		t.Fatal(err)
	}
	if err := server.SetReadOnly(w.ctx, true); err != nil {
		t.Fatal(err)
	}
	w.until("the instance has noticed", func() bool { return len(book.lines("read-only")) > 0 })
	w.until("it has stopped trusting its leases", func() bool { return in.Stats().LastBeat > 2*time.Second })
	if err := server.SetReadOnly(w.ctx, false); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	report := w.judge()
	if d := time.Since(back); d > 15*time.Second {
		t.Errorf("the instance took %v to catch up", d)
	}
	t.Logf("the latest job is %v late", report.MaxLateness)
	if lines := book.lines("read-only"); len(lines) > 20 {
		t.Errorf("%d log lines about it", len(lines))
	}
}
