package reactor

import (
	"strings"
	"sync"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// quarantine remembers the jobs that could not be claimed because of their own rows. They
// are due and unprocessed, so every read of the table brings them again; they are claimed
// by themselves, and seldom, until their row is changed or what is in the way is removed.
//
// What is in the way of one is mostly in the way of many, and goes for all of them at once:
// a constraint, the lock that a trigger waits for, a table that it misses. So one job is
// tried for each cause. Each that succeeds has a few others tried with the next; after a row
// of successes all are let go. So it costs little as long as it lasts, however many they
// are, and they fire within seconds of its end.
type quarantine struct {
	mu        sync.Mutex
	jobs      map[int64]*setAside // guarded by mu
	causes    map[string]*cause   // guarded by mu
	next      time.Time           // guarded by mu: no cause is probed before
	purged    time.Time           // guarded by mu
	endings   map[int64]endings   // guarded by mu
	successes int64               // guarded by mu: of claims
}

// setAside is a job in quarantine.
type setAside struct {
	cause *cause
	due   bool      // may be tried now
	tried time.Time // when it last failed
}

// endings is how often the session ended over which a job was claimed alone, and how many
// claims had succeeded then.
type endings struct {
	n         int
	successes int64
}

// cause is what is in the way of some jobs.
type cause struct {
	key   string
	jobs  map[int64]struct{}
	next  time.Time     // when one of them is tried
	pause time.Duration // until the one after that
	most  time.Duration // the longest pause
	row   int           // successes since the last failure
	waits bool          // to find out takes time
}

const (
	// firstProbe and lastProbe are the least and the most time between two tries of a
	// cause's jobs.
	firstProbe = time.Second
	lastProbe  = 4 * time.Second
	// costlyProbe and lastCostly are those of a job that ends the session.
	costlyProbe = 3 * time.Second
	lastCostly  = 15 * time.Second
	// enoughEndings is how often a job may do that, and mostEndings of how many that is
	// remembered.
	enoughEndings = 3
	mostEndings   = 1000
	// betweenProbes is that between two tries at all: each row may fail for a reason of its own.
	betweenProbes = 25 * time.Millisecond
	// triesPerSuccess is how many more are tried after each success, and enoughSuccesses after
	// how many in a row all of them are let go.
	triesPerSuccess = 8
	enoughSuccesses = 64
	// maxQuarantined bounds the memory. Beyond it a job is found anew each time.
	maxQuarantined = 100_000
	// forgetAfter is when a job is forgotten that nobody has seen since: it may have been
	// deleted.
	forgetAfter = 5 * time.Minute
)

// split returns the jobs to be claimed together, and those to be claimed one by one. The
// others are not to be tried yet.
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

// holds reports whether a job is not to be tried yet. It lets one through where it is time
// to try.
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

// sessionEnded notes that the database session has ended over which a job was claimed alone.
// blamed: that is the job's doing, for it has happened again and again, and not to others in
// between. Where no claim has succeeded since the last time it may be anybody's, and does not
// count.
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

// waits reports whether there are jobs whose claims wait until they fail. Then others like
// them are to be expected, and should not hold up their neighbours for long.
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

// add sets a job aside, and reports whether it was not before.
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
	// Ids and the like are in many a reason.
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

// purge forgets jobs that nobody has seen for long, if there are too many. The caller holds mu.
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

// free forgets jobs of a claim that succeeded: their rows are in order, or not there. It
// returns others that may be so as well, to be looked at again.
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

// len is how many there are.
func (q *quarantine) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.jobs)
}
