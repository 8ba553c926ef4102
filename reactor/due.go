package reactor

import "github.com/job-publisher/reactor/reactor/driver"

// due is a batch of jobs to claim.
type due struct {
	ids      []int64
	bytes    int
	earliest driver.DBTime // the first of their due times
	latest   driver.DBTime // the last of their due times
	from     driver.DBTime // the first of their fire_at, or earlier
	bulk     bool          // they are overdue or large
	large    bool          // they are large
	reserved int           // bytes of the budget
	paced    int           // how many of them were counted as caught up (catchUp)
}

// finished tells what has become of a batch.
type finished struct {
	ids    []int64
	unpaid int // how many that were counted as caught up were not claimed
}

// take adds a job to the batch.
func (b *due) take(job scheduled, at driver.DBTime) {
	if len(b.ids) == 0 {
		b.earliest, b.latest, b.from = at, at, at
	}
	b.ids = append(b.ids, job.id)
	b.bytes += int(job.bytes)
	b.earliest, b.latest, b.from = min(b.earliest, at), max(b.latest, at), min(b.from, job.fireAt(at))
	b.large = b.large || int(job.bytes) >= largePayload
	b.bulk = b.bulk || b.large || job.overdue
}

// full reports whether the batch has as many jobs as a claim takes.
func (b *due) full(rows int) bool { return len(b.ids) >= rows }
