package reactor

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/handoff"
)

// stuckLane is a launcher whose lock is never released.
type stuckLane struct{ release chan struct{} }

func (l stuckLane) launch(*handoff.Batch, int, int) { <-l.release }

// TestStalls: a goroutine that waits for something to do is never stalled, and one that has worked on
// one thing for too long is, by name, until it goes on.
func TestStalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r Reactor
		lane := stuckLane{make(chan struct{})}
		c := newClock(discard())
		c.observe(0, 0, 0)
		wake, err := newTimerWaker()
		if err != nil {
			t.Fatal(err)
		}
		defer wake.Close()
		pad := &launchpad{lane: lane, clock: c, lateness: new(timing), news: wait.NewSignal(), wake: wake, pulse: r.pulses.of("launch pad of lane 3", patienceInMemory)}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			pad.run(ctx)
		}()
		time.Sleep(time.Hour)
		if stalls := r.Stalls(); len(stalls) > 0 {
			t.Errorf("after an hour without work: %v", stalls)
		}
		pad.put(nil, 0, []driver.Job{{FireAt: -1}})
		time.Sleep(patienceInMemory)
		if stalls := r.Stalls(); len(stalls) > 0 {
			t.Errorf("after %v of work: %v", patienceInMemory, stalls)
		}
		time.Sleep(time.Second)
		stalls := r.Stalls()
		if len(stalls) != 1 || stalls[0] != (Stall{"launch pad of lane 3", patienceInMemory + time.Second}) {
			t.Errorf("after %v of work: %v", patienceInMemory+time.Second, stalls)
		}
		h := Stats{Stalls: stalls, Shards: 1, LanesUp: 1, FeedUp: true}.Health()
		if h.Ready || !strings.Contains(strings.Join(h.Problems, ""), "the launch pad of lane 3 has not gone on for 31s") {
			t.Errorf("the health is %+v", h)
		}
		close(lane.release)
		synctest.Wait()
		if stalls := r.Stalls(); len(stalls) > 0 {
			t.Errorf("when it goes on: %v", stalls)
		}
		stop()
		<-ended
		if len(r.pulses.running) > 0 {
			t.Error("a goroutine that has ended has a pulse")
		}
	})
}

// TestHealthKnowsSinceWhen: for how long a part has been in its state begins anew with each state.
func TestHealthKnowsSinceWhen(t *testing.T) {
	var log healthLog
	begun := time.Now()
	for _, step := range []struct {
		after time.Duration
		lanes int64
		want  time.Duration // of the broker in its state
	}{{0, 1, 0}, {time.Second, 1, time.Second}, {3 * time.Second, 0, 0}, {7 * time.Second, 0, 4 * time.Second}, {8 * time.Second, 1, 0}} {
		h := Stats{LanesUp: step.lanes, Lanes: 1, Shards: 1, FeedUp: true}.Health()
		log.note(&h, begun.Add(step.after))
		for _, p := range h.Parts {
			want := step.after
			if p.Name == "broker" || p.Name == "lanes" {
				want = step.want
			}
			if p.For != want {
				t.Errorf("after %v: %s has been %v for %v, want %v", step.after, p.Name, p.State, p.For, want)
			}
		}
	}
}
