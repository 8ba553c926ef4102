package reactor

import "github.com/job-publisher/reactor/reactor/driver"

// due is a batch of jobs to claim.
type due struct {
	ids      []int64
	bytes    int
	earliest driver.DBTime // the first of their due times
	latest   driver.DBTime // the last of their due times
	bulk     bool          // they are overdue or large
	large    bool          // they are large
	reserved int           // bytes of the budget
}

// take adds a job to the batch.
func (b *due) take(job scheduled, at driver.DBTime) {
	if len(b.ids) == 0 {
		b.earliest, b.latest = at, at
	}
	b.ids = append(b.ids, job.id)
	b.bytes += int(job.bytes)
	b.earliest, b.latest = min(b.earliest, at), max(b.latest, at)
	b.large = b.large || int(job.bytes) >= largePayload
	b.bulk = b.bulk || b.large || job.overdue
}

// full reports whether the batch has as many jobs as a claim takes.
func (b *due) full(rows int) bool { return len(b.ids) >= rows }
