package reactor

import (
	"sync"
	"time"
)

// quarantine remembers the jobs that could not be claimed because of their own rows. They
// are due and unprocessed, so every read of the table brings them again; they are claimed
// by themselves, and seldom, until their row is changed or what is in the way is removed.
type quarantine struct {
	mu   sync.Mutex
	jobs map[int64]time.Time // guarded by mu: not to be tried before
}

const (
	// quarantinePause is the time between two tries of a job.
	quarantinePause = 30 * time.Second
	// maxQuarantined bounds the memory. Beyond it a job is found anew each time.
	maxQuarantined = 10_000
)

// split returns the jobs to be claimed together, and those to be claimed one by one. The
// others are not to be tried yet.
func (q *quarantine) split(ids []int64, now time.Time) (together, alone []int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.jobs) == 0 {
		return ids, nil
	}
	together = make([]int64, 0, len(ids))
	for _, id := range ids {
		switch until, bad := q.jobs[id]; {
		case !bad:
			together = append(together, id)
		case !now.Before(until):
			alone = append(alone, id)
		}
	}
	return together, alone
}

// holds reports whether a job is not to be tried yet.
func (q *quarantine) holds(id int64, now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	until, bad := q.jobs[id]
	return bad && now.Before(until)
}

// add sets a job aside, and reports whether it was not before.
func (q *quarantine) add(id int64, now time.Time) (fresh bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.jobs == nil {
		q.jobs = map[int64]time.Time{}
	}
	_, known := q.jobs[id]
	if len(q.jobs) >= maxQuarantined { // some may have been deleted
		for other, until := range q.jobs {
			if now.Sub(until) > 10*quarantinePause {
				delete(q.jobs, other)
			}
		}
	}
	if known || len(q.jobs) < maxQuarantined {
		q.jobs[id] = now.Add(quarantinePause)
	}
	return !known
}

// free forgets jobs of a claim that succeeded: their rows are in order, or not there.
func (q *quarantine) free(ids []int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.jobs) == 0 {
		return
	}
	for _, id := range ids {
		delete(q.jobs, id)
	}
}

// len is how many there are.
func (q *quarantine) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.jobs)
}
