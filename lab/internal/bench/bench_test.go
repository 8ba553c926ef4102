package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

func TestMain(m *testing.M) { testkit.Main(m, testkit.WithMigrations(pgsource.MigrateUp)) }

// measure runs a bench. The programs are built without the race detector, which would slow
// down one side of each ratio.
func measure(t *testing.T, cfg Config) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cfg.Program, cfg.Drainer = testkit.ReactorPlain(t), testkit.BuildPlain(t, "./cmd/reactor-lab")
	r, err := Run(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	var table bytes.Buffer
	if err := r.Table(&table); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + table.String())
	return r
}

func work(jobs int) Config {
	return Config{
		Instances: 1, Delivery: reactor.AtLeastOnce, Lanes: 2, Poll: Poll{Rows: 100, Every: 50 * time.Millisecond},
		Load: Load{Jobs: jobs, PayloadBytes: 40, Topics: 10},
	}
}

// TestBacklogIsDrainedFasterThanByPolling detects a regression in throughput. reactor is
// about 20 times as fast as the poller, and close to the ceiling.
func TestBacklogIsDrainedFasterThanByPolling(t *testing.T) {
	cfg := work(20_000)
	cfg.Ceiling, cfg.Baseline = true, Poller
	r := measure(t, cfg)
	if r.Reactor.PublishedPerSecond < 5*r.Baseline.PublishedPerSecond {
		t.Errorf("reactor published %.0f jobs/s, less than 5 times the %.0f of the poller", r.Reactor.PublishedPerSecond, r.Baseline.PublishedPerSecond)
	}
	if r.Reactor.PublishedPerSecond < r.Ceiling.PublishedPerSecond/4 {
		t.Errorf("reactor published %.0f jobs/s, less than a quarter of the ceiling's %.0f", r.Reactor.PublishedPerSecond, r.Ceiling.PublishedPerSecond)
	}
	if r.BareClaimsPerSecond <= 0 || r.Broker == nil || r.Broker.PublishedPerSecond <= 0 {
		t.Errorf("the two parts of the ceiling were not measured: %f, %+v", r.BareClaimsPerSecond, r.Broker)
	}
	for _, m := range r.all() {
		if m.Lost != 0 || m.Duplicated != 0 || m.Early != 0 || m.Jobs == 0 {
			t.Errorf("%s: %+v", m.Name, m)
		}
		if len(m.Arrivals) == 0 || len(m.Distribution) != len(Percents) || m.StatementsPerSecond == 0 || m.InsertedPerSecond == 0 {
			t.Errorf("%s: a value is missing: %+v", m.Name, m)
		}
	}
	if i := r.Reactor.Internals; i == nil || i.Claim.Mean <= 0 || i.Ack.Mean <= 0 || i.Settle.Mean <= 0 || i.Launch.Mean <= 0 || i.JobsPerClaim < 2 || len(i.ClaimSizes) == 0 {
		t.Errorf("internal timings: %+v", i)
	} else {
		claims := 0
		for _, s := range i.ClaimSizes {
			claims += s.Claims
		}
		if mean := 20_000 / float64(claims); mean < i.JobsPerClaim*0.99 { // which counts claims that got none as well
			t.Errorf("%d claims got 20,000 jobs, %.1f each: %+v", claims, mean, i)
		}
	}
	checkOutput(t, r, "ceiling", "baseline")
}

// checkOutput parses the JSON and the SVG.
func checkOutput(t *testing.T, r Result, words ...string) {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Result
	if err := json.Unmarshal(text, &back); err != nil || back.Reactor.PublishedPerSecond != r.Reactor.PublishedPerSecond {
		t.Errorf("%v: %s", err, text)
	}
	var plot bytes.Buffer
	if err := r.Plot(&plot); err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(plot.Bytes())); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the plot is not XML: %v", err)
		}
	}
	for _, word := range append(words, "<svg", "reactor", "percentile") {
		if !strings.Contains(plot.String(), word) {
			t.Errorf("the plot does not contain %q", word)
		}
	}
}

// TestPacedLoadIsPublishedSoonerThanByPolling detects a regression in lateness. At the median
// the poller is about 40 times as late as reactor.
func TestPacedLoadIsPublishedSoonerThanByPolling(t *testing.T) {
	cfg := work(1000)
	cfg.Baseline, cfg.Load.Rate = Poller, 500
	r := measure(t, cfg)
	if r.Baseline.LatenessMillis.P50 < 5*r.Reactor.LatenessMillis.P50 {
		t.Errorf("at the median the poller is %.2f ms late, not 5 times as late as reactor with %.2f ms",
			r.Baseline.LatenessMillis.P50, r.Reactor.LatenessMillis.P50)
	}
}

func TestSeveralInstancesAndOtherLoads(t *testing.T) {
	t.Parallel()
	for name, load := range map[string]Load{
		"spread":       {Jobs: 500, Spread: time.Second},
		"same instant": {Jobs: 500, SameInstant: true, Ahead: time.Second},
	} {
		for _, delivery := range []reactor.Delivery{reactor.ExactlyOnce, reactor.AtMostOnce} {
			load.PayloadBytes, load.Topics = 200, 3
			t.Log(name, delivery)
			r := measure(t, Config{Instances: 3, Delivery: delivery, Lanes: 1, Load: load})
			if r.Reactor.Jobs != 500 || r.Reactor.LatenessMillis.Max <= 0 {
				t.Errorf("%s: %+v", name, r.Reactor)
			}
		}
	}
}

// TestBrokerWithDefaultSettings: Mosquitto has a window of 20 messages by default, and uses
// Nagle's algorithm: it sends no small packet before the last one is acknowledged. Instance and
// broker must not wait for each other. The throughput is about 0.4 of that with a large window.
// When they waited for each other, it was a hundredth. The two are measured one after the other, so a
// machine that has other work in between is given a second and a third chance; waiting for each other
// would show each time.
func TestBrokerWithDefaultSettings(t *testing.T) {
	perSecond := func(broker stack.MosquittoConfig) float64 {
		cfg := work(10_000)
		cfg.Delivery, cfg.DatabaseURL, cfg.BrokerURL = reactor.ExactlyOnce, testkit.NewDatabase(t), testkit.OwnMosquitto(t, broker).URL()
		return measure(t, cfg).Reactor.PublishedPerSecond
	}
	var wide, narrow float64
	for range 3 {
		wide = perSecond(stack.MosquittoConfig{})
		narrow = perSecond(stack.MosquittoConfig{MaxInflight: 20, ExtraLines: []string{"set_tcp_nodelay false"}})
		if narrow >= wide/10 {
			return
		}
	}
	t.Errorf("with Mosquitto's defaults %.0f jobs/s, less than a tenth of %.0f", narrow, wide)
}

// TestIdleInstancesSendFewStatements: one of them each second looks for schedules (pgsource/occurrences.go), as a
// new one is to be seen within that time.
func TestIdleInstancesSendFewStatements(t *testing.T) {
	t.Parallel()
	cfg := work(0)
	cfg.Load = Load{Idle: 4 * time.Second, PayloadBytes: 1, Topics: 1, Jobs: 1}
	if r := measure(t, cfg); r.Reactor.StatementsPerSecond > 5 {
		t.Errorf("an idle instance sends the database %.1f statements/s, want at most 5", r.Reactor.StatementsPerSecond)
	}
}

// TestExternalInstances measures an instance that the bench has not started.
func TestExternalInstances(t *testing.T) {
	t.Parallel()
	cfg := work(2000)
	cfg.Instances, cfg.DatabaseURL, cfg.BrokerURL = 0, testkit.NewDatabase(t), testkit.OwnMosquitto(t, stack.MosquittoConfig{}).URL()
	testkit.Run(t, testkit.ProcessConfig{
		Path: testkit.ReactorPlain(t),
		Args: []string{"run", "--delivery", "at-least-once", "--database-url", cfg.DatabaseURL, "--mqtt-url", cfg.BrokerURL},
	})
	r := measure(t, cfg)
	if r.Reactor.Jobs != 2000 || r.Reactor.Internals != nil {
		t.Errorf("%+v", r.Reactor)
	}
}

func TestConfigValidate(t *testing.T) {
	for _, tt := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.DatabaseURL = "postgres://x" }, "both URLs"},
		{func(c *Config) { c.Instances = 0 }, "at least one"},
		{func(c *Config) {
			c.Instances, c.Ceiling, c.DatabaseURL, c.BrokerURL = 0, true, "postgres://x", "mqtt://x"
		}, "take part"},
		{func(c *Config) { c.Instances = 65 }, "0 to 64"},
		{func(c *Config) { c.Load.Rate, c.Load.SameInstant = 1, true }, "exclude"},
		{func(c *Config) { c.Load.Idle, c.Ceiling = time.Second, true }, "excludes"},
		{func(c *Config) { c.Ceiling, c.Load.Rate = true, 1 }, "of a backlog"},
		{func(c *Config) { c.Fsync, c.DatabaseURL, c.BrokerURL = true, "postgres://x", "mqtt://x" }, "not its own"},
		{func(c *Config) { c.Load.Jobs = 0 }, "at least 1"},
		{func(c *Config) { c.Load.PayloadBytes = 300 << 20 }, "268000000"},
		{func(c *Config) { c.Load.Topics = 0 }, "at least 1"},
		{func(c *Config) { c.Load.Rate = -1 }, "negative"},
		{func(c *Config) { c.Load.Ahead = -1 }, "negative"},
		{func(c *Config) { c.Baseline, c.Poll.Rows = Poller, 0 }, "at least 1 row"},
		{func(c *Config) { c.Floor = true }, "give a rate"},
		{func(c *Config) { c.Floor, c.Load.Idle = true, time.Second }, "give a rate"},
		{func(c *Config) { c.HoldSnapshot = true }, "over time"},
		{func(c *Config) {
			c.Instances, c.InstanceFlags, c.DatabaseURL, c.BrokerURL = 0, []string{"--x"}, "postgres://x", "mqtt://x"
		}, "already run"},
		{func(c *Config) { c.MoreInstances = []int{0} }, "must be 1 to 64"},
		{func(c *Config) { c.Load.UrgentEvery, c.Load.Idle = time.Second, time.Second }, "leave idle out"},
		{func(c *Config) { c.Load.Beside, c.Load.UrgentEvery = 1, time.Second }, "not both"},
		{func(c *Config) { c.Load.Pending = -1 }, "negative"},
		{func(c *Config) { c.Rounds = 101 }, "1 to 100"},
	} {
		cfg := work(1)
		tt.change(&cfg)
		if _, err := Run(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: error %v, want one that contains %q", cfg, err, tt.want)
		}
	}
}
