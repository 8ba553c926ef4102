package reactor_test

import (
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor"
)

// TestBrokerKilledAgainAndAgain: connections that end with the broker, as soon as they are
// made, are nobody's take-overs, and no lane is left alone because of them.
func TestBrokerKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{Persistence: true, Autosave: time.Hour})
	w := newWorld(t, "", broker.URL())
	proxy := testkit.NewProxy(t, broker.URL())
	wire := tap(proxy)
	in, book := w.startLogged(reactor.Config{}, w.through(proxy))
	w.insert(100, 0, 0)
	w.judge()
	if err := broker.Save(w.ctx); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		if err := broker.Kill(); err != nil {
			t.Fatal(err)
		}
		connected := wire.count(packets.CONNECT, ofLane)
		if err := broker.Start(w.ctx); err != nil {
			t.Fatal(err)
		}
		w.until("both lanes have come back", func() bool { return wire.count(packets.CONNECT, ofLane) >= connected+2 })
	}
	if lines := book.lines("--deployment"); len(lines) > 0 {
		t.Errorf("the broker's end is taken for somebody: %s", lines[0])
	}
	w.until("both lanes send again", func() bool { return in.Stats().LanesUp == 2 })
	w.insert(300, 0, 0)
	if report := w.judge(); report.MaxLateness > 10*time.Second {
		t.Errorf("the last is %v late", report.MaxLateness)
	}
}
