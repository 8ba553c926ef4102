package bench

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor"
)

// TestSnapshot: slices show lateness over time, and what the statements take whose cost could grow.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	cfg := work(1000)
	cfg.HoldSnapshot, cfg.Baseline, cfg.Load.Rate = true, Poller, 500
	r := measure(t, cfg)
	if len(r.Variants) != 1 || r.Variants[0].Name != "reactor, snapshot" {
		t.Fatalf("%+v", r.Variants)
	}
	for _, m := range []Measurement{*r.Baseline, r.Reactor, r.Variants[0]} {
		jobs, costs := 0, Costs{}
		for _, s := range m.Slices {
			jobs += s.Jobs
			costs.ScanMillis += s.ScanMillis
			costs.HeartbeatMillis += s.HeartbeatMillis
		}
		if len(m.Slices) != sliceCount || jobs != 1000 || m.Slices[0].P50 <= 0 {
			t.Errorf("%s: %+v", m.Name, m.Slices)
		}
		if costs.ScanMillis <= 0 || m.Name != baselineName && (costs.HeartbeatMillis <= 0 || m.IdleAfter == nil || len(m.IdleAfter.Usage) == 0) {
			t.Errorf("%s: scans or heartbeats were not found: %+v, %+v", m.Name, costs, m.IdleAfter)
		}
	}
	var table strings.Builder
	if err := r.Table(&table); err != nil || !strings.Contains(table.String(), "heartbeat ms") {
		t.Errorf("%v: the table lacks the slices", err)
	}
}

// TestRiver: River publishes each job once, not early, and its fetches are timed. Nothing of it is
// left.
func TestRiver(t *testing.T) {
	t.Parallel()
	cfg := work(300)
	cfg.HoldSnapshot, cfg.Baseline, cfg.Load.Rate, cfg.Load.Ahead = true, River, 200, 10*time.Second
	r := measure(t, cfg)
	scanned := 0.0
	for _, s := range r.Baseline.Slices {
		scanned += s.ScanMillis
	}
	if r.Baseline.Jobs != 300 || r.Baseline.Lost+r.Baseline.Duplicated+r.Baseline.Early != 0 || scanned <= 0 {
		t.Errorf("%+v", r.Baseline)
	}
}

// TestSnapshotKeepsVacuumFromWork: what it is held for.
func TestSnapshotKeepsVacuumFromWork(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	d := &deployment{database: testkit.NewDatabase(t)}
	conn := connectTo(t, ctx, d.database)
	dead := func() (n int) {
		t.Helper()
		for _, sql := range []string{
			"INSERT INTO jobs (topic, fire_at) SELECT 'a', now() FROM generate_series(1, 1000)", "DELETE FROM jobs", "VACUUM jobs",
		} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				t.Fatal(err)
			}
		}
		// Pages that vacuum could empty are given back.
		if err := conn.QueryRow(ctx, "SELECT pg_relation_size('jobs')").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	held, err := d.holdSnapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if n := dead(); n == 0 {
		t.Error("vacuum has removed the rows that the snapshot sees")
	}
	if err := held.release(ctx); err != nil {
		t.Fatal(err)
	}
	if n := dead(); n != 0 {
		t.Errorf("vacuum has left %d bytes", n)
	}
}

// TestStoredRowsAndUrgentJobs: stored rows are not published, and urgent jobs are measured by
// themselves.
func TestStoredRowsAndUrgentJobs(t *testing.T) {
	t.Parallel()
	cfg := work(20_000)
	cfg.Delivery, cfg.Baseline = reactor.ExactlyOnce, Poller
	cfg.Load.Pending, cfg.Load.Processed, cfg.Load.UrgentEvery = 2000, 3000, 10*time.Millisecond
	r := measure(t, cfg)
	if len(r.Variants) != 1 || r.Variants[0].Name != "reactor, stored rows" {
		t.Fatalf("%+v", r.Variants)
	}
	for _, m := range []Measurement{*r.Baseline, r.Reactor, r.Variants[0]} {
		if m.Beside == nil || m.Beside.Jobs == 0 || m.Beside.LatenessMillis.P50 <= 0 {
			t.Errorf("%s: urgent jobs: %+v", m.Name, m.Beside)
		}
		if m.Name != baselineName && m.Jobs != 20_000 || m.FirstSeconds <= 0 {
			t.Errorf("%s: %+v", m.Name, m)
		}
	}
}

// TestOthersServersAreLeftClean: also stored rows are deleted.
func TestOthersServersAreLeftClean(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	cfg := work(100)
	cfg.DatabaseURL, cfg.BrokerURL = testkit.NewDatabase(t), testkit.OwnMosquitto(t, stack.MosquittoConfig{}).URL()
	cfg.Load.Rate, cfg.Load.Pending, cfg.Floor, cfg.Load.Ahead = 200, 10, true, time.Second
	measure(t, cfg)
	var jobs, tables int
	err := connectTo(t, ctx, cfg.DatabaseURL).QueryRow(ctx, "SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM pg_class WHERE relname LIKE 'reactor_bench%')").Scan(&jobs, &tables)
	if err != nil || jobs != 0 || tables != 0 {
		t.Errorf("%d jobs and %d tables are left: %v", jobs, tables, err)
	}
}

func TestSeveralNumbersOfInstances(t *testing.T) {
	t.Parallel()
	cfg := work(500)
	cfg.MoreInstances, cfg.Load.Spread = []int{2}, time.Second
	r := measure(t, cfg)
	if len(r.Variants) != 1 || r.Variants[0].Name != "reactor × 2" {
		t.Fatalf("%+v", r.Variants)
	}
	if one, two := r.Reactor, r.Variants[0]; one.Connections == 0 || two.Connections <= one.Connections || one.StatementsPerJob == 0 || two.StatementsPerJob == 0 {
		t.Errorf("%d and %d connections, %f and %f statements a job", one.Connections, two.Connections, one.StatementsPerJob, two.StatementsPerJob)
	}
}

// TestInstanceFlags: the instances get them.
func TestInstanceFlags(t *testing.T) {
	t.Parallel()
	for _, change := range []func(*Config){
		func(c *Config) { c.InstanceFlags = []string{"--stage=perhaps"} },
		func(c *Config) { c.CompareFlags = []string{"--stage=perhaps"} },
	} {
		cfg := work(10)
		cfg.Load.Rate, cfg.Program, cfg.Drainer = 100, testkit.ReactorPlain(t), testkit.BuildPlain(t, "./cmd/reactor-lab")
		cfg.DatabaseURL, cfg.BrokerURL = testkit.NewDatabase(t), testkit.OwnMosquitto(t, stack.MosquittoConfig{}).URL()
		change(&cfg)
		if _, err := Run(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), "perhaps") {
			t.Errorf("%v, want what the instance says of its flag", err)
		}
	}
}

// TestSnapshotThatEndsIsAnError: what was measured then is not what was asked for.
func TestSnapshotThatEndsIsAnError(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	database, broker := testkit.NewDatabase(t), testkit.OwnMosquitto(t, stack.MosquittoConfig{}).URL()
	conn := connectTo(t, ctx, database)
	d, err := newDeployment(ctx, Config{
		DatabaseURL: database, BrokerURL: broker, Instances: 1, Drainer: testkit.BuildPlain(t, "./cmd/reactor-lab"),
		Poll: Poll{Rows: 100, Every: time.Millisecond}, Load: Load{Jobs: 10, Rate: 100, Topics: 1, Ahead: 100 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	_, err = d.trial(ctx, trial{name: baselineName, jobs: 10, snapshot: true, begin: func(ctx context.Context) (drainer, error) {
		if _, err := conn.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"); err != nil {
			return nil, err
		}
		return d.beginBare(Poller, reactor.AtLeastOnce)(ctx)
	}})
	if err == nil || !strings.Contains(err.Error(), "not held until the end") {
		t.Errorf("%v, want that the snapshot has ended", err)
	}
}
