package reactor

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/handoff"
)

// launched is a job that was launched.
type launched struct {
	job  driver.Job
	late time.Duration
}

// launching is a running launch pad; it also plays the pad's lane.
type launching struct {
	*testing.T
	*launchpad
	mu      sync.Mutex
	batches map[*handoff.Batch][]driver.Job // guarded by mu
	list    []launched                      // guarded by mu
}

func (l *launching) launch(f *handoff.Batch, from, to int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, job := range l.batches[f][from:to] {
		l.list = append(l.list, launched{job, l.clock.Now().Sub(job.FireAt)})
	}
}

// launched returns the jobs that were launched so far.
func (l *launching) launched() []launched {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.list)
}

// batch puts jobs on the pad that are due after the given durations.
func (l *launching) batch(dueIn ...time.Duration) {
	jobs := make([]driver.Job, len(dueIn))
	for i, d := range dueIn {
		jobs[i] = driver.Job{ID: int64(len(l.batches)*1000 + i), FireAt: l.clock.Now().Add(d)}
	}
	f := new(handoff.Batch)
	l.mu.Lock()
	l.batches[f] = jobs
	l.mu.Unlock()
	l.put(f, 0, jobs)
}

func onPad(t *testing.T, test func(l *launching)) {
	synctest.Test(t, func(t *testing.T) {
		l := &launching{T: t, batches: map[*handoff.Batch][]driver.Job{}}
		wake, _ := newTimerWaker()
		l.launchpad = &launchpad{lane: l, clock: testClock(), lateness: &timing{}, wake: wake, news: wait.NewSignal()}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.run(ctx)
		}()
		test(l)
		cancel()
		<-done
	})
}

// TestNeverEarly: jobs of many batches are launched in order of fire_at, each at its own time, and
// not before.
func TestNeverEarly(t *testing.T) {
	onPad(t, func(l *launching) {
		r := rand.New(rand.NewPCG(1, 1))
		for range 50 {
			dueIn := make([]time.Duration, 1+r.IntN(40))
			for i := range dueIn {
				dueIn[i] = time.Duration(r.Int64N(int64(time.Second)))
			}
			slices.Sort(dueIn)
			l.batch(dueIn...)
			time.Sleep(time.Duration(r.Int64N(int64(20 * time.Millisecond))))
			synctest.Wait()
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		jobs := 0
		for _, batch := range l.batches {
			jobs += len(batch)
		}
		if len(l.launched()) != jobs {
			l.Fatalf("%d of %d jobs were launched", len(l.launched()), jobs)
		}
		for i, job := range l.launched() {
			// The clock stays behind by its possible drift: some microseconds in a second.
			if job.late < 0 || job.late > time.Millisecond {
				l.Fatalf("job %d of %d is %v late", i, jobs, job.late)
			}
		}
	})
}

// TestLaunchOrder: a job that comes later and is due earlier is launched first.
func TestLaunchOrder(t *testing.T) {
	onPad(t, func(l *launching) {
		l.batch(time.Second, 3*time.Second)
		l.batch(2 * time.Second)
		l.batch(-time.Second, 0)
		synctest.Wait()
		if len(l.launched()) != 2 {
			l.Errorf("at once: %+v", l.launched())
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		var ids []int64
		for _, job := range l.launched() {
			ids = append(ids, job.job.ID)
		}
		if !slices.Equal(ids, []int64{2000, 2001, 0, 1000, 1}) {
			l.Errorf("launched %v", ids)
		}
		if n := l.lateness.get().Count; n != 5 {
			l.Errorf("%d are counted", n)
		}
	})
}

// TestLaunchFollowsTheClock: a step of the database's clock changes when jobs are launched.
func TestLaunchFollowsTheClock(t *testing.T) {
	onPad(t, func(l *launching) {
		l.batch(time.Minute)
		testSet(l.clock, time.Hour)
		synctest.Wait()
		if len(l.launched()) != 1 {
			l.Error("the clock was set forward, and no job is launched")
		}
		l.batch(time.Second)
		testSet(l.clock, -time.Minute)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if len(l.launched()) != 1 {
			l.Error("launched early, by the clock before the step")
		}
		time.Sleep(32 * time.Second)
		synctest.Wait()
		if len(l.launched()) != 2 {
			l.Error("never launched")
		}
	})
}
