package reactor_test

import (
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor"
)

// instant inserts n jobs that fall due together, in a while, and returns when that is.
func (w *world) instant(n int, ahead time.Duration) (due time.Time) {
	w.t.Helper()
	err := w.db.QueryRow(w.ctx, `
		WITH due AS (SELECT clock_timestamp() + $3::bigint * interval '1 microsecond' AS at), inserted AS (
		     INSERT INTO jobs (topic, payload, fire_at) SELECT $1 || '/instant', 'payload ' || n, at FROM due, generate_series(1, $2::bigint) n)
		SELECT at FROM due`, w.prefix, n, ahead.Microseconds()).Scan(&due)
	if err != nil {
		w.t.Fatal(err)
	}
	return due
}

func ofJob(p tapped) bool { return ofLane(p) && (p.job != 0 || p.kind != packets.PUBLISH) }

// TestStagedRelease: jobs for one instant are with the broker before it, and leave it together. None of
// them is released before its time.
func TestStagedRelease(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	proxy := testkit.NewProxy(t, w.brokerURL)
	wire := tap(proxy)
	in := w.start(reactor.Config{}, w.through(proxy))
	w.until("its lanes know their broker", func() bool { return in.Stats().LanesStaging == 3 })
	const n = 300 // less than what its lanes may stage
	// Where everything else takes the cores, a claim may come too late for that; the lead grows then.
	for staged, tries := 0, 0; staged < n/2; tries++ {
		if tries == 20 {
			t.Fatalf("%d of %d messages were sent before their time", staged, n)
		}
		before := len(wire.all())
		due := w.instant(n, 500*time.Millisecond)
		if err := w.subscriber.WaitDistinct(w.ctx, (tries+1)*n); err != nil {
			t.Fatal(err)
		}
		staged = 0
		for _, p := range wire.all()[before:] {
			switch {
			case !ofJob(p) || !p.at.Before(due):
			case p.kind == packets.PUBLISH:
				staged++
			case p.kind == packets.PUBREL:
				t.Errorf("slot %d is released %v before its time", p.id, due.Sub(p.at))
			}
		}
	}
	w.judge()
}

// TestStagedAndInterrupted: whatever ends while messages are staged, they are published once, and not
// before their time.
func TestStagedAndInterrupted(t *testing.T) {
	t.Parallel()
	for name, interrupt := range map[string]func(w *world, p *testkit.Process, broker *stack.Mosquitto, proxy *netfault.Proxy){
		"kill -9": func(w *world, p *testkit.Process, _ *stack.Mosquitto, _ *netfault.Proxy) { p.Kill(w.t) },
		"SIGTERM": func(w *world, p *testkit.Process, _ *stack.Mosquitto, _ *netfault.Proxy) { p.Terminate(w.t) },
		"SIGSTOP": func(w *world, p *testkit.Process, _ *stack.Mosquitto, _ *netfault.Proxy) {
			p.Pause(w.t)
			w.eventually("the others have taken over", "SELECT count(*) = 1 FROM reactor.instances")
			p.Continue(w.t)
		},
		"a restart of the broker": func(w *world, _ *testkit.Process, broker *stack.Mosquitto, _ *netfault.Proxy) {
			if err := broker.Stop(); err != nil {
				w.t.Fatal(err)
			}
			if err := broker.Start(w.ctx); err != nil {
				w.t.Fatal(err)
			}
		},
		"lost connections": func(_ *world, _ *testkit.Process, _ *stack.Mosquitto, proxy *netfault.Proxy) { proxy.Reset() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{Persistence: true})
			w := newWorld(t, "", broker.URL())
			proxy := testkit.NewProxy(t, w.brokerURL)
			wire := tap(proxy)
			p := w.process(proxy)
			if _, err := p.WaitLine(w.ctx, "they are sent before their time"); err != nil {
				t.Fatal(err)
			}
			second := w.start(reactor.Config{})
			w.sharesOf(2)
			w.until("its lanes know their broker", func() bool { return second.Stats().LanesStaging == 3 })
			for range 3 { // more often than not the first is interrupted while they wait for their release
				received := wire.count(packets.PUBREC, ofJob)
				w.instant(600, 500*time.Millisecond)
				wire.await(w.ctx, t, packets.PUBREC, received+50, ofJob)
				if name == "lost connections" {
					interrupt(w, p, broker, proxy)
				}
			}
			interrupt(w, p, broker, proxy)
			w.judge()
		})
	}
}
