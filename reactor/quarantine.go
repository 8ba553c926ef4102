package reactor

import (
	"strings"
	"sync"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// quarantine remembers the jobs that could not be claimed because of their own rows. They are
// due and unprocessed, so every read of the table finds them again. Each is tried alone, and
// seldom, until its row is changed or the cause is removed.
//
// A cause mostly affects many jobs, and ends for all of them at once: a constraint, a lock that
// a trigger waits for, a table that a trigger misses. So for each cause one job is tried. After
// each success a few more jobs of the cause are tried; after several successes in a row all are
// released. So a cause costs little while it lasts, however many jobs it affects, and its jobs
// are published within seconds of its end.
type quarantine struct {
	mu        sync.Mutex
	jobs      map[int64]*setAside // guarded by mu
	causes    map[string]*cause   // guarded by mu
	next      time.Time           // guarded by mu: no cause is probed before this time
	purged    time.Time           // guarded by mu
	endings   map[int64]endings   // guarded by mu
	successes int64               // guarded by mu: number of claims that succeeded
}

// setAside is a job in quarantine.
type setAside struct {
	cause *cause
	due   bool      // may be tried now
	tried time.Time // when it last failed
}

// endings counts for one job how often the database session ended while it was claimed alone.
// It also holds how many claims had succeeded by the last time.
type endings struct {
	n         int
	successes int64
}

// cause is a reason why some jobs cannot be claimed.
type cause struct {
	key   string
	jobs  map[int64]struct{}
	next  time.Time     // when the next of its jobs is tried
	pause time.Duration // until the try after that
	most  time.Duration // the longest pause
	row   int           // successes since the last failure
	waits bool          // a failing claim waits before it fails
}

const (
	// firstProbe and lastProbe are the shortest and the longest time between two tries of a
	// cause's jobs.
	firstProbe = time.Second
	lastProbe  = 4 * time.Second
	// costlyProbe and lastCostly are the same for a job that ends the session.
	costlyProbe = 3 * time.Second
	lastCostly  = 15 * time.Second
	// enoughEndings is after how many ended sessions a job is blamed, and mostEndings is for
	// how many jobs that is counted.
	enoughEndings = 3
	mostEndings   = 1000
	// betweenProbes is the shortest time between two tries of any causes: each row may fail for
	// a cause of its own.
	betweenProbes = 25 * time.Millisecond
	// triesPerSuccess is how many more jobs of a cause are tried after each success, and
	// enoughSuccesses is after how many successes in a row all of them are released.
	triesPerSuccess = 8
	enoughSuccesses = 64
	// maxQuarantined bounds the memory. Further jobs are not remembered, and are found to be
	// bad each time.
	maxQuarantined = 100_000
	// forgetAfter is after how long a job is forgotten that no read has found again: it may
	// have been deleted.
	forgetAfter = 5 * time.Minute
)

// split returns the jobs to claim together, and those to claim one by one. Jobs in neither list
// are not to be tried yet.
func (q *quarantine) split(ids []int64) (together, alone []int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.jobs) == 0 {
		return ids, nil
	}
	together = make([]int64, 0, len(ids))
	for _, id := range ids {
		switch job := q.jobs[id]; {
		case job == nil:
			together = append(together, id)
		case job.due:
			alone = append(alone, id)
		}
	}
	return together, alone
}

// holds reports whether a job is not to be tried yet. When it is time to try a cause, holds
// lets one of its jobs through.
func (q *quarantine) holds(id int64, now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	job := q.jobs[id]
	switch {
	case job == nil || job.due:
		return false
	case now.Before(job.cause.next) || now.Before(q.next):
		return true
	}
	job.due = true
	job.cause.next, q.next = now.Add(job.cause.pause), now.Add(betweenProbes)
	return false
}

// sessionEnded notes that the database session ended while a job was claimed alone. blamed
// tells that the job is the cause: it has happened to this job several times, and claims of
// others succeeded in between. If no claim has succeeded since the last time, the cause may be
// an outage, and the event does not count.
func (q *quarantine) sessionEnded(id int64) (blamed, counts bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.endings == nil || len(q.endings) >= mostEndings {
		q.endings = map[int64]endings{}
	}
	e := q.endings[id]
	if counts = e.n == 0 || e.successes != q.successes; counts {
		e.n++
	}
	e.successes = q.successes
	q.endings[id] = e
	return e.n >= enoughEndings, counts
}

// waits reports whether there are jobs whose claims wait before they fail. Then more such jobs
// are to be expected, and should not delay the rest of their batch for long.
func (q *quarantine) waits() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, c := range q.causes {
		if c.waits {
			return true
		}
	}
	return false
}

// add sets a job aside, and reports whether it was not set aside before.
func (q *quarantine) add(id int64, why *driver.JobError, now time.Time) (fresh bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.jobs == nil {
		q.jobs, q.causes = map[int64]*setAside{}, map[string]*cause{}
	}
	job := q.jobs[id]
	fresh = job == nil
	if fresh {
		if q.purge(now); len(q.jobs) >= maxQuarantined {
			return true
		}
		job = &setAside{}
		q.jobs[id] = job
	}
	// Many reasons contain ids and other values of the row.
	key := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, why.Reason)
	c := q.causes[key]
	if c == nil {
		c = &cause{key: key, jobs: map[int64]struct{}{}, pause: firstProbe, most: lastProbe, waits: why.Waited}
		if why.Costly {
			c.pause, c.most = costlyProbe, lastCostly
		}
		c.next = now.Add(c.pause)
		q.causes[key] = c
	}
	if job.cause != c {
		q.leave(id, job)
		job.cause = c
		c.jobs[id] = struct{}{}
	} else {
		c.pause = min(2*c.pause, c.most)
	}
	c.row = 0
	job.due, job.tried = false, now
	return fresh
}

// leave takes a job out of its cause. The caller holds mu.
func (q *quarantine) leave(id int64, job *setAside) {
	if c := job.cause; c != nil {
		if delete(c.jobs, id); len(c.jobs) == 0 {
			delete(q.causes, c.key)
		}
	}
}

// purge forgets jobs that no read has found for long, if there are too many. The caller holds
// mu.
func (q *quarantine) purge(now time.Time) {
	if len(q.jobs) < maxQuarantined || now.Sub(q.purged) < forgetAfter {
		return
	}
	q.purged = now
	for id, job := range q.jobs {
		if now.Sub(job.tried) > forgetAfter {
			q.leave(id, job)
			delete(q.jobs, id)
		}
	}
}

// free forgets jobs of a claim that succeeded: their rows are in order, or gone. It returns
// other jobs of the same causes, to be looked at again.
func (q *quarantine) free(ids []int64) (more []int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.successes++
	if len(q.jobs)+len(q.endings) == 0 {
		return nil
	}
	for _, id := range ids {
		delete(q.endings, id)
		job := q.jobs[id]
		if job == nil {
			continue
		}
		c := job.cause
		q.leave(id, job)
		delete(q.jobs, id)
		c.row++
		c.pause = firstProbe
		n := 0
		for other := range c.jobs {
			switch job := q.jobs[other]; {
			case c.row >= enoughSuccesses:
				q.leave(other, job)
				delete(q.jobs, other)
				more = append(more, other)
			case n == triesPerSuccess:
			case !job.due:
				job.due = true
				more = append(more, other)
				n++
			}
		}
	}
	return more
}

// len is the number of jobs in quarantine.
func (q *quarantine) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.jobs)
}
