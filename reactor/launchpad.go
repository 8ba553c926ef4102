package reactor

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/reactor/internal/handoff"
)

// launchpad holds the claimed jobs of a lane for their last milliseconds, and launches each at
// its own microsecond.
//
// Batches are sorted, so a heap of batches by their next job is a queue of all jobs.
type launchpad struct {
	lane     launcher
	clock    *clock
	lateness *timing // statistic: written here, read by Stats alone
	wake     waker   // owned by run
	news     wait.Signal
	pulse    *pulse

	mu    sync.Mutex
	queue waiting         // guarded by mu
	late  []time.Duration // guarded by mu: reused
}

// launcher is what the launch pad needs of its lane.
type launcher interface {
	// launch sends the batch's jobs from … to-1: their time has come.
	launch(b *handoff.Batch, from, to int)
}

// waitingBatch is a run of jobs of a batch that have not been launched.
type waitingBatch struct {
	batch *handoff.Batch
	first int          // place in the batch of the first of the jobs
	jobs  []driver.Job // not shared; the launch pad reads only their fire_at
	next  int          // index of the first job that was not launched
}

type waiting []*waitingBatch

func (w waiting) Len() int { return len(w) }
func (w waiting) Less(i, j int) bool {
	return w[i].jobs[w[i].next].FireAt < w[j].jobs[w[j].next].FireAt
}
func (w waiting) Swap(i, j int) { w[i], w[j] = w[j], w[i] }
func (w *waiting) Push(x any)   { *w = append(*w, x.(*waitingBatch)) }
func (w *waiting) Pop() any {
	old := *w
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*w = old[:len(old)-1]
	return last
}

// put adds jobs of a batch, in order of fire_at. The first of them is at the place first in the
// batch.
func (p *launchpad) put(b *handoff.Batch, first int, jobs []driver.Job) {
	p.mu.Lock()
	heap.Push(&p.queue, &waitingBatch{batch: b, first: first, jobs: jobs})
	p.mu.Unlock()
	p.news.Set()
}

// run launches until ctx ends. The lane hands back what has not been launched then.
func (p *launchpad) run(ctx context.Context) {
	p.pulse.begin()
	defer p.pulse.end()
	for {
		step := p.clock.Step()
		p.fire()
		p.pulse.rest()
		select {
		case <-ctx.Done():
			return
		case <-p.news:
		case <-p.wake.C():
		case <-step:
		}
		p.pulse.work()
	}
}

// fire launches every job that is due, and sets the alarm for the next one.
func (p *launchpad) fire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.queue) > 0 {
		b := p.queue[0]
		now := p.clock.Now()
		from := b.next
		for b.next < len(b.jobs) && b.jobs[b.next].FireAt <= now {
			b.next++
		}
		if b.next == from {
			p.wake.Set(b.jobs[b.next].FireAt.Sub(now))
			return
		}
		p.lane.launch(b.batch, b.first+from, b.first+b.next)
		p.late = p.late[:0]
		for _, job := range b.jobs[from:b.next] {
			p.late = append(p.late, now.Sub(job.FireAt))
		}
		p.lateness.observe(p.late...)
		if b.next == len(b.jobs) {
			heap.Pop(&p.queue)
		} else {
			heap.Fix(&p.queue, 0)
		}
	}
}
