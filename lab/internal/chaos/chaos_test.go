package chaos_test

import (
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/lab/internal/chaos"
	"github.com/job-publisher/reactor/reactor"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// TestPromisesSurvive runs a few seeds; `make chaos` runs more. As many run in parallel as there are
// cores, because a run mostly waits.
func TestPromisesSurvive(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		cfg  chaos.Config
	}{
		{"everything", chaos.Config{Seed: 1}},
		{"everything again", chaos.Config{Seed: 2}},
		{"kills", chaos.Config{Seed: 3, Faults: []string{"kill", "freeze", "burst"}, Pause: time.Second}},
		{"servers", chaos.Config{Seed: 4, Faults: []string{"kill", "postgres", "broker"}}},
		{"packets", chaos.Config{Seed: 5, Faults: []string{"packet", "commit", "cut", "burst"}, Pause: 200 * time.Millisecond}},
		{"at least once", chaos.Config{Seed: 6, Delivery: reactor.AtLeastOnce}},
		{"lost commits", chaos.Config{Seed: 7, Faults: []string{"failover", "kill", "burst"}, Pause: 2 * time.Second}},
		{"broker killed", chaos.Config{Seed: 8, Faults: []string{"brokerkill", "postgres"}, Pause: time.Second}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.cfg.Program = testkit.Reactor(t)
			test.cfg.Dir = t.TempDir()
			test.cfg.Duration = 10 * time.Second
			test.cfg.Rate = 500
			o, err := chaos.Run(t.Context(), test.cfg)
			if err != nil {
				t.Fatal(err)
			}
			r := o.Report
			t.Logf("seed %d: %d faults, %d jobs, lost %d, duplicated %d, early %d, the latest %v late",
				test.cfg.Seed, len(o.Schedule), r.Due, r.Lost.Count, r.Duplicated.Count, r.Early.Count, r.MaxLateness)
			for _, line := range o.Notes {
				t.Log("accepted:", line)
			}
			if err := o.Err(); err != nil {
				for _, line := range o.Settings {
					t.Log(line)
				}
				for _, line := range o.Schedule {
					t.Log(line)
				}
				t.Fatalf("seed %d: %v", test.cfg.Seed, err)
			}
		})
	}
}
