package reactor_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// freeze stops a broker until the returned function is called, or the test ends.
func freeze(t *testing.T, broker *stack.Mosquitto) (thaw func()) {
	t.Helper()
	if err := broker.Freeze(); err != nil {
		t.Fatal(err)
	}
	thaw = func() { _ = broker.Thaw() }
	t.Cleanup(thaw)
	return thaw
}

// TestRecoverySendsAsNewWhatIsNew: an instance is killed while its broker is frozen and
// thousands of jobs are claimed. Whoever recovers them marks those as duplicates that may have
// been sent, and no others: a broker may drop a duplicate of a message that it has never seen.
func TestRecoverySendsAsNewWhatIsNew(t *testing.T) {
	for _, delivery := range []reactor.Delivery{reactor.ExactlyOnce, reactor.AtLeastOnce} {
		t.Run(delivery.String(), func(t *testing.T) {
			t.Parallel()
			broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{})
			w := newWorld(t, "", broker.URL())
			proxy := testkit.NewProxy(t, w.brokerURL)
			wire := tap(proxy)
			first := w.process(proxy, "--delivery", delivery.String())
			w.insert(100, 0, 0)
			w.judge()
			thaw := freeze(t, broker)
			w.insert(6000, 0, 0)
			w.eventually("thousands are claimed", "SELECT count(*) > 4000 FROM jobs WHERE processed")
			first.Kill(t)
			var lanes, reach int
			if err := w.db.QueryRow(w.ctx, "SELECT count(DISTINCT lane), max(reach) FROM reactor.in_flight").Scan(&lanes, &reach); err != nil {
				t.Fatal(err)
			}
			thaw()
			w.process(proxy, "--delivery", delivery.String())
			if delivery == reactor.ExactlyOnce {
				w.judge()
			} else {
				w.settled()
				w.eventually("all are processed", "SELECT NOT EXISTS (SELECT FROM jobs WHERE NOT processed)")
				w.settled()
				if report := w.delivered(); report.Lost.Count > 0 || report.Duplicated.Count > lanes*reach {
					t.Error(report.Err())
				}
			}
			dup, all := wire.count(packets.PUBLISH, isDup), wire.count(packets.PUBLISH)
			if dup > lanes*reach || all < 6100 {
				t.Errorf("%d of %d messages are marked as duplicates, at most %d lanes × %d may be", dup, all, lanes, reach)
			}
			if dup == 0 {
				t.Error("nothing is marked as a duplicate, though a window of messages had been sent")
			}
			t.Logf("%d of %d messages are marked as duplicates; %d lanes × %d", dup, all, lanes, reach)
		})
	}
}

// TestRecoveryKeepsToFireAt: jobs that were claimed and not published are due in the future, as
// after a failover to a server whose clock is behind. Their recovery waits until they are due,
// also over a lane beyond those that the instance wants: the next instance wants fewer lanes.
func TestRecoveryKeepsToFireAt(t *testing.T) {
	t.Parallel()
	broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{})
	w := newWorld(t, "", broker.URL())
	first := w.processWithLanes(3)
	w.insert(100, 0, 0)
	w.judge()
	thaw := freeze(t, broker)
	w.insert(2000, 0, 0)
	w.eventually("all are claimed, over all lanes",
		"SELECT count(DISTINCT lane) = 3 AND sum(cardinality(job_ids)) = 2000 FROM reactor.in_flight")
	first.Kill(t)
	w.exec("UPDATE jobs SET fire_at = clock_timestamp() + interval '5 seconds' WHERE id > 100")
	thaw()
	second := w.start(reactor.Config{Lanes: 1})
	w.until("they are recovered", func() bool { return second.Stats().Recovered >= 2000 })
	if report := w.judge(); report.MaxLateness > 2*time.Second {
		t.Errorf("the latest job is %v late", report.MaxLateness)
	}
}

// processWithLanes runs the program until all its lanes are connected: a broker that stops
// answering earlier leaves some of them without a session, and they claim nothing.
func (w *world) processWithLanes(n int, args ...string) *testkit.Process {
	w.t.Helper()
	port, err := stack.FreePort()
	if err != nil {
		w.t.Fatal(err)
	}
	address := fmt.Sprint("127.0.0.1:", port)
	p := w.process(nil, append(args, "--lanes", fmt.Sprint(n), "--http-addr", address)...)
	want := fmt.Sprintf("\nreactor_lanes_up %d\n", n)
	w.until("all lanes are up", func() bool {
		answer, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			return false // the program does not listen yet
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		return err == nil && strings.Contains(string(text), want)
	})
	http.DefaultClient.CloseIdleConnections()
	return p
}

// TestRecoveredLanesAreNoDeadEnds: the next instance first takes the lanes that were left with
// messages on their way, and the database's clock is behind. Jobs that are due later keep their
// slots in these lanes, and jobs that are due now are sent over others.
func TestRecoveredLanesAreNoDeadEnds(t *testing.T) {
	// Of four lanes, two are beyond what the next instance wants.
	for _, lanes := range []int{2, 4} {
		t.Run(fmt.Sprint(lanes), func(t *testing.T) {
			t.Parallel()
			testRecoveredLanes(t, lanes)
		})
	}
}

func testRecoveredLanes(t *testing.T, lanes int) {
	jobs := 1000 * lanes
	broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{})
	w := newWorld(t, "", broker.URL())
	first := w.processWithLanes(lanes, "--grace", "0s")
	w.insert(100, 0, 0)
	w.judge()
	thaw := freeze(t, broker)
	w.insert(jobs, 0, 0)
	w.eventually("all are claimed, over all lanes",
		"SELECT count(DISTINCT lane) = $1 AND sum(cardinality(job_ids)) = $2 FROM reactor.in_flight", lanes, jobs)
	first.Terminate(t)
	first.Wait(t, 20*time.Second)
	w.eventually("the lanes are nobody's", "SELECT count(*) = $1 AND count(owner) = 0 FROM reactor.lanes", lanes)
	w.exec("UPDATE jobs SET fire_at = clock_timestamp() + interval '12 seconds' WHERE id > 100")
	thaw()
	second := w.start(reactor.Config{Lanes: 2})
	w.until("they are recovered", func() bool { return second.Stats().Recovered >= int64(jobs) })
	w.insert(3000, 0, 0)
	if report := w.judge(); report.MaxLateness > 5*time.Second {
		t.Errorf("the latest job is %v late", report.MaxLateness)
	}
}

// sharedIdentity is a broker at which all clients of one user are one session.
func sharedIdentity() stack.MosquittoConfig {
	return stack.MosquittoConfig{
		Username: "worker", Password: "secret", Persistence: true, Autosave: time.Hour,
		ExtraLines: []string{"use_username_as_clientid true"},
	}
}

// TestRefusesSharedIdentity: with use_username_as_clientid all lanes are one session, and mix
// up their packet ids without an error. Run refuses that, in one line.
func TestRefusesSharedIdentity(t *testing.T) {
	for _, delivery := range []reactor.Delivery{reactor.ExactlyOnce, reactor.AtLeastOnce, reactor.AtMostOnce} {
		t.Run(delivery.String(), func(t *testing.T) {
			t.Parallel()
			broker := testkit.OwnMosquitto(t, sharedIdentity())
			database := testkit.NewDatabase(t)
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			// No lane sends, not even the first one while a second one is about to be refused.
			ended := make(chan error, 2)
			for range cap(ended) {
				source, err := pgsource.New(pgsource.Config{DatabaseURL: database})
				if err != nil {
					t.Fatal(err)
				}
				sink, err := mqttsink.New(mqttsink.Config{URL: broker.URL()})
				if err != nil {
					t.Fatal(err)
				}
				r, err := reactor.New(source, sink, reactor.Config{Delivery: delivery, Logger: testkit.Logger(t)})
				if err != nil {
					t.Fatal(err)
				}
				go func() { ended <- r.Run(ctx) }()
			}
			for range cap(ended) {
				err := <-ended
				if err == nil || !strings.Contains(err.Error(), "use_username_as_clientid") || strings.ContainsAny(err.Error(), "\n") || strings.Contains(err.Error(), "secret") {
					t.Errorf("Run returned %v, want one line that names the setting", err)
				}
			}
		})
	}
}

// TestIdentityIsSharedLater: the setting is switched on while an instance runs. It sends
// nothing more, another one is refused, and when the setting is gone nothing is lost.
func TestIdentityIsSharedLater(t *testing.T) {
	t.Parallel()
	cfg := sharedIdentity()
	lines := cfg.ExtraLines
	cfg.ExtraLines = nil
	broker := testkit.OwnMosquitto(t, cfg)
	w := newWorld(t, "", broker.URL())
	proxy := testkit.NewProxy(t, w.brokerURL)
	wire := tap(proxy)
	in := w.start(reactor.Config{}, w.through(proxy))
	w.insert(6000, 0, 2*time.Second)
	if err := w.subscriber.WaitDistinct(w.ctx, 1000); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(broker.Dir(), "mosquitto.conf")
	plain, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	restart := func(conf string) {
		t.Helper()
		if err := broker.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := broker.Start(w.ctx); err != nil {
			t.Fatal(err)
		}
	}
	// The judge is one of the clients, and would share the session, too.
	aside := func() {
		t.Helper()
		proxy.Refuse()
		proxy.Cut()
		if err := proxy.WaitClosed(w.ctx); err != nil {
			t.Fatal(err)
		}
	}
	aside()
	w.delivered()
	w.subscriber.Close()
	received := w.subscriber.Received()
	restart(string(plain) + strings.Join(lines, "\n") + "\n")
	published, connects := wire.count(packets.PUBLISH), wire.count(packets.CONNECT, ofLane)
	if err := proxy.Accept(); err != nil {
		t.Fatal(err)
	}
	second := w.process(nil)
	if code := second.Wait(t, 30*time.Second); code == 0 || !strings.Contains(second.Output(), "use_username_as_clientid") {
		t.Errorf("the second instance ended with %d", code)
	}
	wire.await(w.ctx, t, packets.CONNECT, connects+6, ofLane)
	aside()
	if got := wire.count(packets.PUBLISH); got > published {
		t.Errorf("%d messages were sent over a session that the lanes share", got-published)
	}
	restart(string(plain))
	w.subscribe(2)
	if err := proxy.Accept(); err != nil {
		t.Fatal(err)
	}
	w.settled()
	w.eventually("all are processed", "SELECT NOT EXISTS (SELECT FROM jobs WHERE NOT processed)")
	w.settled()
	w.delivered()
	expected, err := check.ExpectedFromDB(w.ctx, w.db, "true")
	if err != nil {
		t.Fatal(err)
	}
	all := slices.DeleteFunc(append(received, w.subscriber.Received()...), func(r check.Received) bool { return r.ID > firstMark })
	report := check.Compare(expected, all, check.Config{})
	if report.Lost.Count > 0 || report.Duplicated.Count > 0 {
		t.Error(report.Err())
	}
	if s := in.Stats(); s.OutcomesUnknown > 0 {
		t.Errorf("%d outcomes are unknown, though no session was lost", s.OutcomesUnknown)
	}
}
