package reactor_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor"
)

// arrivals returns the payloads of a topic in the order of their arrival, each once.
func (w *world) arrivals(topic string) (list []string) {
	for _, m := range w.subscriber.Received() {
		if p := string(m.Payload); m.Topic == w.prefix+topic && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	return list
}

func numbers(n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprint(i+1))
	}
	return list
}

// TestOrder: jobs of a key are published in order, also those of one instant, by several instances whose
// connections to the broker are cut; and other jobs do not wait for them.
func TestOrder(t *testing.T) {
	t.Parallel()
	for _, delivery := range []reactor.Delivery{reactor.ExactlyOnce, reactor.AtLeastOnce} {
		t.Run(delivery.String(), func(t *testing.T) {
			t.Parallel()
			direct := testkit.Broker(t).URL()
			w := newWorld(t, "", "")
			proxy := testkit.NewProxy(t, direct)
			w.brokerURL = proxy.Through(direct)
			const keys, each = 5, 30
			// In the order of the ids, but not of their insertion into an index: all at one instant, or
			// a millisecond apart.
			w.exec(`INSERT INTO jobs (topic, payload, fire_at, ordering_key)
				SELECT $1 || '/key' || k, n, now() + interval '500 ms' + CASE WHEN k % 2 = 0 THEN '0' ELSE n * interval '1 ms' END, 'key ' || k
				  FROM generate_series(1, $2::int) k, generate_series(1, $3::int) n ORDER BY n`, w.prefix, keys, each)
			for range 3 {
				in := w.start(reactor.Config{Delivery: delivery})
				// At a start, a broker that cannot be reached ends the instance.
				w.until("the instance is ready", func() bool { return in.Stats().Health().Ready })
			}
			for i := range 10 {
				if err := w.subscriber.WaitDistinct(w.ctx, (i+1)*keys*each/20); err != nil {
					t.Fatal(err)
				}
				if i%2 == 0 {
					proxy.CutAfterBytes(netfault.ToClient, int64(7*i))
				} else {
					proxy.Reset()
				}
			}
			w.exec("INSERT INTO jobs (topic, payload, fire_at) SELECT $1 || '/free', n, now() FROM generate_series(1, 50) n", w.prefix)
			if err := w.subscriber.WaitDistinct(w.ctx, keys*each+50); err != nil {
				t.Fatal(err)
			}
			for k := 1; k <= keys; k++ {
				if got := w.arrivals(fmt.Sprint("/key", k)); !slices.Equal(got, numbers(each)) {
					t.Errorf("key %d: %v", k, got)
				}
			}
			w.settled()
		})
	}
}

// TestOrderBehindFailures: what a failed job does to those behind it is a setting; one that is tried
// again goes first.
func TestOrderBehindFailures(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"skip", "block"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "", "")
			w.exec("UPDATE reactor.deployment SET ordered_failure = '" + policy + "'")
			// The second job of the key expires, and keeps nobody waiting. The third fails, as its topic has a
			// wildcard.
			w.exec(`ALTER TABLE jobs DROP CONSTRAINT "topic must not contain the wildcards + or #"`)
			w.exec(`INSERT INTO jobs (topic, payload, fire_at, ordering_key, expires_at)
				SELECT $1 || '/key' || CASE n WHEN 3 THEN '#' ELSE '' END, n, now() - interval '1 minute', 'k', CASE n WHEN 2 THEN now() - interval '1 second' END FROM generate_series(1, 5) n`, w.prefix)
			w.exec("INSERT INTO jobs (topic, payload, fire_at, ordering_key) VALUES ($1 || '/other', '1', now(), 'other')", w.prefix)
			w.start(reactor.Config{})
			w.eventually("two have ended", "SELECT array_agg(state ORDER BY job_id) = '{expired,failed}' FROM reactor.failed_jobs")
			want := []string{"1", "4", "5"}
			if policy == "block" {
				if err := w.subscriber.WaitDistinct(w.ctx, 2); err != nil {
					t.Fatal(err)
				}
				w.eventually("all that may be claimed is settled", "SELECT count(*) = 2 FROM jobs WHERE NOT processed AND NOT EXISTS (SELECT FROM reactor.in_flight)")
				w.exec("UPDATE jobs SET processed = false, topic = $1 || '/key', claim = NULL WHERE payload = '3'", w.prefix) // try it again
				want = []string{"1", "3", "4", "5"}
			}
			if err := w.subscriber.WaitDistinct(w.ctx, len(want)+1); err != nil {
				t.Fatal(err)
			}
			if got := w.arrivals("/key"); !slices.Equal(got, want) {
				t.Errorf("arrived %v, want %v", got, want)
			}
			w.settled()
		})
	}
}

// TestOrderWaitsForRetries: a job that the broker refuses for a while keeps those behind it waiting.
func TestOrderWaitsForRetries(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	// As if an attempt had failed: it is due again in 300 ms.
	w.exec(`INSERT INTO jobs (topic, payload, fire_at, ordering_key) SELECT $1 || '/key', n, now() - interval '1 minute', 'k' FROM generate_series(1, 3) n`, w.prefix)
	w.exec("INSERT INTO reactor.retries (job_id, attempts, retry_at, code, reason) SELECT min(id), 1, now() + interval '300 ms', 135, 'not authorized' FROM jobs")
	begun := time.Now()
	w.start(reactor.Config{})
	if err := w.subscriber.WaitDistinct(w.ctx, 3); err != nil {
		t.Fatal(err)
	}
	if got := w.arrivals("/key"); !slices.Equal(got, numbers(3)) {
		t.Errorf("arrived %v", got)
	}
	if first := w.subscriber.Received()[0].At; first.Sub(begun) < 200*time.Millisecond {
		t.Errorf("the first was not held back: %v", first.Sub(begun))
	}
}

// TestOnlyNewestOfLateJobs: with catch-up "newest" of each key only the last of the late jobs that are due is
// published, and those before it are recorded as missed; jobs that are on time, or have no key, all are.
func TestOnlyNewestOfLateJobs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	w.exec("UPDATE reactor.deployment SET ordered_catch_up = 'newest'")
	w.exec(`INSERT INTO jobs (topic, payload, fire_at, ordering_key)
		SELECT $1 || '/key' || k, n, now() - interval '1 hour' + n * interval '1 second', 'key ' || k FROM generate_series(1, 3) k, generate_series(1, 200) n`, w.prefix)
	w.exec("INSERT INTO jobs (topic, payload, fire_at) SELECT $1 || '/none', n, now() - interval '1 hour' FROM generate_series(1, 20) n", w.prefix)
	w.exec("INSERT INTO jobs (topic, payload, fire_at, ordering_key) SELECT $1 || '/soon', n, now() + interval '1 second', 'soon' FROM generate_series(1, 5) n", w.prefix)
	for range 2 {
		w.start(reactor.Config{})
	}
	if err := w.subscriber.WaitDistinct(w.ctx, 3+20+5); err != nil {
		t.Fatal(err)
	}
	w.settled()
	for k := 1; k <= 3; k++ {
		if got := w.arrivals(fmt.Sprint("/key", k)); !slices.Equal(got, []string{"200"}) {
			t.Errorf("key %d: %v", k, got)
		}
	}
	if got := w.arrivals("/soon"); !slices.Equal(got, numbers(5)) {
		t.Errorf("on time: %v", got)
	}
	w.eventually("the others are recorded", "SELECT count(*) = 3 * 199 FROM reactor.failed_jobs f JOIN jobs j ON j.id = f.job_id WHERE f.state = 'missed' AND j.ordering_key LIKE 'key%' AND j.payload <> '200'")
}
