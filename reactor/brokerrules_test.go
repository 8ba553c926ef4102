package reactor_test

import (
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor"
)

// TestBrokerForgetsRulesOfWhoIsAway: docs/delivery.md says which access rules a subscriber
// needs that has not reconnected yet when Mosquitto has restarted. If its rules only name
// topics, the broker drops its messages; with a pattern rule, the broker keeps them.
func TestBrokerForgetsRulesOfWhoIsAway(t *testing.T) {
	t.Parallel()
	broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{
		Persistence: true, AccessRules: []string{"topic deny forbidden/#", "pattern readwrite #"},
	})
	w := newWorld(t, "", broker.URL())
	proxy := testkit.NewProxy(t, broker.URL())
	away, err := check.Subscribe(w.ctx, check.SubscriberConfig{
		URL: proxy.Through(broker.URL()), Filter: w.prefix + "/#", QoS: 2, Logger: testkit.Logger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer away.Close()
	w.start(reactor.Config{})
	w.insert(3000, 0, 2*time.Second)
	if err := away.WaitDistinct(w.ctx, 1000); err != nil {
		t.Fatal(err)
	}
	proxy.Refuse()
	if err := broker.Restart(w.ctx); err != nil {
		t.Fatal(err)
	}
	if err := w.subscriber.WaitDistinct(w.ctx, 3000); err != nil {
		t.Fatal(err)
	}
	if n := away.Progress().Distinct; n >= 3000 {
		t.Fatalf("%d messages have arrived at a subscriber that is away", n)
	}
	if err := proxy.Accept(); err != nil {
		t.Fatal(err)
	}
	if err := away.WaitDistinct(w.ctx, 3000); err != nil {
		t.Error(err)
	}
}
