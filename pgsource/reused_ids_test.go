package pgsource_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestReusedIDs: after TRUNCATE … RESTART IDENTITY a new row has the id of a claimed one. It is not
// the row that was claimed, and the attempts of the old row do not count for it.
func TestReusedIDs(t *testing.T) {
	for name, claim := range map[string]func(*bench, []int64) driver.Batch{
		"at least once": (*bench).claim,
		"exactly once":  (*bench).claimExactlyOnce,
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			claim(b, b.insert(3, "-1 second"))
			b.exec("TRUNCATE jobs RESTART IDENTITY")
			again := b.insert(3, "1 hour")
			recovered := b.recoverOne()
			if len(recovered.Jobs) != 3 {
				t.Fatalf("recovered %+v, want three places", recovered)
			}
			for i, job := range recovered.Jobs {
				if job.Topic != "" || len(job.Payload) > 0 {
					t.Errorf("recovered %+v in place %d, which nobody has claimed", job, i)
				}
			}
			b.published(recovered)
			if n := b.count("SELECT count(*) FROM jobs WHERE NOT processed"); n != 3 {
				t.Errorf("%d of the 3 new rows are left", n)
			}
			b.exec("UPDATE jobs SET fire_at = now()") // their own time
			if batch := b.claim(again); !slices.Equal(idsOf(batch), again) {
				t.Errorf("claimed %v, want %v", idsOf(batch), again)
			}
		})
	}
}

// TestReusedIDOfACancelledRow: the application has marked the new row as processed; it is still not
// the row that was claimed.
func TestReusedIDOfACancelledRow(t *testing.T) {
	b := newBench(t)
	ids := b.insert(1, "-1 second")
	b.claim(ids)
	b.exec("TRUNCATE jobs RESTART IDENTITY")
	b.insert(1, "-1 second")
	b.exec("UPDATE jobs SET processed = true")
	if job := b.recoverOne().Jobs[0]; job.Topic != "" {
		t.Errorf("recovered %+v, which its owner has cancelled", job)
	}
}

// TestRevivedRowIsNotRecovered: the application has made the row unprocessed while its message was in
// flight. It is claimed again, so a recovery must not publish it as well.
func TestRevivedRowIsNotRecovered(t *testing.T) {
	b := newBench(t)
	ids := b.insert(2, "-1 second")
	b.claim(ids)
	b.exec("UPDATE jobs SET processed = false WHERE id = $1", ids[0])
	if jobs := b.recoverOne().Jobs; jobs[0].Topic != "" || jobs[1].Topic == "" {
		t.Errorf("recovered %+v, want the second alone", jobs)
	}
	if batch := b.claim(ids); !slices.Equal(idsOf(batch), ids[:1]) {
		t.Errorf("claimed %v, want %v", idsOf(batch), ids[:1])
	}
}

// TestRetriesOfAReusedID: the old row was refused once, and has one of two attempts left.
func TestRetriesOfAReusedID(t *testing.T) {
	b := newBench(t) // with two attempts
	ids := b.insert(1, "-1 second")
	b.refuse(b.claim(ids))
	b.exec("UPDATE reactor.retries SET retry_at = now() + interval '1 hour'")
	b.exec("INSERT INTO reactor.failed_jobs (job_id, attempts, code, reason) VALUES ($1, 2, 0, 'the old one')", ids[0])
	b.exec("TRUNCATE jobs RESTART IDENTITY")
	b.insert(1, "-1 second")

	pending, err := b.LoadIDs(b.ctx, driver.AllShards, ids, driver.DistantPast, b.now().Add(24*time.Hour), true)
	if err != nil || len(pending) != 1 || pending[0].DueAt > b.now() {
		t.Errorf("loaded %+v, %v: the new row waits for the old one's next try", pending, err)
	}
	if window, _, err := b.LoadWindow(b.ctx, cursors(math.MinInt64), b.now(), 1000); err != nil || len(window) != 1 || window[0].DueAt > b.now() {
		t.Errorf("the window has %+v, %v: the new row waits for the old one's next try", window, err)
	}
	batch := b.claim(ids)
	if n := b.count("SELECT count(*) FROM reactor.failed_jobs"); n != 0 {
		t.Error("the failure of the old row is said of the new one")
	}
	b.refuse(batch)
	if n := b.count("SELECT attempts FROM reactor.retries WHERE job_id = $1", ids[0]); n != 1 {
		t.Errorf("%d attempts of the new row are counted, want 1", n)
	}
	// The attempts of the new row itself are counted further.
	b.refuse(b.claim(ids))
	if n := b.count("SELECT attempts FROM reactor.failed_jobs WHERE job_id = $1", ids[0]); n != 2 {
		t.Errorf("failed after %d attempts, want 2", n)
	}
}

// TestAttemptsOfWhatAClaimLeavesAlone: a row beyond the bound of bytes was due and was not taken;
// its attempts still count.
func TestAttemptsOfWhatAClaimLeavesAlone(t *testing.T) {
	b := newBench(t)
	ids := b.insert(2, "-1 second")
	b.refuse(b.claim(ids))
	req := b.request(ids)
	req.Bytes = 1
	first, err := b.Claim(b.ctx, req)
	if err != nil || len(first.Jobs) != 1 {
		t.Fatalf("claimed %+v, %v, want the first alone", first, err)
	}
	b.published(first)
	b.refuse(b.claim(ids))
	if n := b.count("SELECT attempts FROM reactor.failed_jobs WHERE job_id = $1", ids[1]); n != 2 {
		t.Errorf("the job that was left alone failed after %d attempts, want 2", n)
	}
}

// TestAnyID: every bigint is a valid id, 0 included.
func TestAnyID(t *testing.T) {
	b := newBench(t)
	ids := []int64{math.MinInt64, -1, 0, 1, math.MaxInt64}
	b.exec("INSERT INTO jobs (id, topic, fire_at) SELECT id, 't', now() - interval '1 second' FROM unnest($1::bigint[]) AS id", ids)

	pending, err := b.LoadRange(b.ctx, driver.AllShards, math.MinInt64, math.MaxInt64, driver.DistantPast, b.now())
	if err != nil || len(pending) != len(ids) {
		t.Fatalf("loaded %+v, %v", pending, err)
	}
	batch := b.claimExactlyOnce(ids)
	if got := b.recoverOne(); !slices.Equal(idsOf(got), ids) {
		t.Fatalf("recovered %v, want %v", idsOf(got), ids)
	}
	// One after the other fails and leaves a place.
	for i, job := range batch.Jobs {
		st := driver.Settlement{
			BatchID: batch.ID, Token: batch.Token, Lease: b.lease, Jobs: len(ids), Kept: len(ids), Concluded: i + 1,
			Failures: []driver.Failure{{JobID: job.ID, Code: 0x87, Reason: "not authorized"}},
		}
		if !b.mark(st) {
			t.Fatal("not held")
		}
		got := b.recoverOne()
		for k, job := range got.Jobs {
			if (job.Topic == "") != (k <= i) {
				t.Errorf("after %d failures place %d is %+v", i+1, k, job)
			}
		}
	}
	if n := b.count("SELECT count(*) FROM reactor.retries WHERE returned AND attempts = 1 AND job_id = ANY ($1)", ids); n != len(ids) {
		t.Errorf("%d of %d refused jobs are back", n, len(ids))
	}
	b.exec("TRUNCATE reactor.in_flight")
	b.unsent(b.claim(ids))
	if n := b.count("SELECT count(*) FROM jobs WHERE NOT processed"); n != len(ids) {
		t.Errorf("%d of %d unsent jobs are back", n, len(ids))
	}
}
