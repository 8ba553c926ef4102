package reactor

import (
	"strconv"
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestQuarantineProbes: however many jobs one cause affects, only one of them is tried at a
// time, and seldom. Once a try succeeds, the others follow within a few rounds.
func TestQuarantineProbes(t *testing.T) {
	var q quarantine
	now := time.Now()
	const jobs = 10_000
	for id := range int64(jobs) {
		q.add(id, &driver.JobError{Reason: "job " + strconv.FormatInt(id, 10) + " violates"}, now)
	}
	tries := 0
	for range 100 { // sweeps
		now = now.Add(time.Second)
		for id := range int64(jobs) {
			if !q.holds(id, now) {
				tries++
				if _, alone := q.split([]int64{id}); len(alone) != 1 {
					t.Fatal("a job that is let through is not tried alone")
				}
				q.add(id, &driver.JobError{Reason: "job " + strconv.FormatInt(id, 10) + " violates"}, now)
			}
		}
	}
	if tries < 20 || tries > 120 {
		t.Errorf("%d tries of %d jobs in 100 s", tries, jobs)
	}
	if q.len() != jobs {
		t.Fatalf("%d of %d jobs are remembered", q.len(), jobs)
	}
	// The cause ends.
	now = now.Add(lastProbe + time.Second)
	var free []int64
	for id := range int64(jobs) {
		if !q.holds(id, now) {
			free = append(free, id)
			break
		}
	}
	rounds, claims := 0, 0
	for len(free) > 0 {
		rounds++
		together, alone := q.split(free)
		free = q.free(together)
		for _, id := range alone {
			claims++
			free = append(free, q.free([]int64{id})...)
		}
	}
	if q.len() != 0 || rounds > 6 || claims > 200 {
		t.Errorf("after %d rounds and %d claims of single jobs %d are left", rounds, claims, q.len())
	}
}

// TestQuarantineOfManyCauses: each row may fail for a reason of its own.
func TestQuarantineOfManyCauses(t *testing.T) {
	var q quarantine
	now := time.Now()
	reason := func(id int64) *driver.JobError { return &driver.JobError{Reason: string(rune(0x4e00 + id))} }
	for id := range int64(5000) {
		q.add(id, reason(id), now)
	}
	tries := 0
	for range 100 {
		now = now.Add(10 * time.Millisecond)
		for id := range int64(5000) {
			if !q.holds(id, now.Add(time.Minute)) {
				tries++
				q.add(id, reason(id), now)
			}
		}
	}
	if tries > 60 {
		t.Errorf("%d tries in a second", tries)
	}
	if !q.holds(4999, now) || q.holds(5000, now) {
		t.Error("holds is wrong")
	}
}

// TestSessionsThatEnd: no job is blamed for an outage that ends every session.
func TestSessionsThatEnd(t *testing.T) {
	var q quarantine
	for range 100 {
		if blamed, _ := q.sessionEnded(1); blamed {
			t.Fatal("a job is blamed while no claim succeeds")
		}
	}
	for n := range 2 {
		q.free([]int64{2})
		if blamed, counts := q.sessionEnded(1); !counts || blamed != (n == 1) {
			t.Errorf("after %d claims of others: %v, %v", n+1, blamed, counts)
		}
	}
	q.free([]int64{1})
	if blamed, _ := q.sessionEnded(1); blamed {
		t.Error("a job that was claimed is blamed for earlier endings")
	}
}
