package pgsource_test

import (
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestLockedRowsHoldNobodyUp: an application holds a lock on the row of a job that was refused. Its
// settlement and those of others do not wait; the job goes back to the table when the lock is
// released; the attempt is counted once.
func TestLockedRowsHoldNobodyUp(t *testing.T) {
	b := newBench(t)
	ids := b.insert(4, "0")
	batch := b.claim(ids)
	tx, err := connect(t, b.ctx, b.url).Begin(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(b.ctx)
	if _, err := tx.Exec(b.ctx, "SELECT FROM jobs WHERE id = $1 FOR UPDATE", ids[1]); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	b.settle(driver.Settlement{
		BatchID: batch.ID, Token: batch.Token, Lease: b.lease, Jobs: 4, Kept: 3, Concluded: 3, Done: true,
		Failures: []driver.Failure{{JobID: ids[1], Code: 0x87, Reason: "not authorized"}, {JobID: ids[2], Code: 0x87, Reason: "not authorized"}},
	})
	if took := time.Since(begun); took > time.Second {
		t.Errorf("the settlement took %v", took)
	}
	if n := b.count("SELECT count(*) FROM jobs WHERE NOT processed AND id = ANY ($1)", []int64{ids[2], ids[3]}); n != 2 {
		t.Errorf("%d of the two jobs that nobody locked went back", n)
	}
	if n := b.count("SELECT count(*) FROM reactor.retries WHERE NOT returned AND job_id = $1", ids[1]); n != 1 {
		t.Error("the locked one is not noted")
	}
	if err := tx.Rollback(b.ctx); err != nil {
		t.Fatal(err)
	}
	b.eventually("the job goes back when the lock is gone", "SELECT NOT processed FROM jobs WHERE id = $1", ids[1])
	if n := b.count("SELECT attempts FROM reactor.retries WHERE job_id = $1 AND returned", ids[1]); n != 1 {
		t.Errorf("%d attempts are counted, want 1", n)
	}
}

// TestRowsThatRefuse: a trigger that lets nobody make a row unprocessed ends that job with the
// reason, and no other job.
func TestRowsThatRefuse(t *testing.T) {
	b := newBench(t)
	b.exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'never again'; END $$`)
	b.exec(`CREATE TRIGGER refuse BEFORE UPDATE ON jobs FOR EACH ROW WHEN (old.processed AND NOT new.processed AND new.topic = 't/2') EXECUTE FUNCTION refuse()`)
	ids := b.insert(3, "0")
	batch := b.claim(ids)
	b.settle(driver.Settlement{BatchID: batch.ID, Token: batch.Token, Lease: b.lease, Jobs: 3, Kept: 0, Done: true})
	b.eventually("the one is recorded as failed, and the others are back", `
		SELECT (SELECT count(*) FROM jobs WHERE NOT processed) = 2
		   AND EXISTS (SELECT FROM reactor.failed_jobs WHERE job_id = $1 AND reason LIKE '%never again%')`, ids[1])
}

// TestRowsThatCannotBeClaimed: they are recorded with a reason of their own, and leave the failed
// jobs once they can be claimed.
func TestRowsThatCannotBeClaimed(t *testing.T) {
	b := newBench(t)
	ids := b.insert(3, "0")
	b.exec("ALTER TABLE jobs ADD CONSTRAINT spoiled CHECK (topic <> 't/2') NOT VALID")
	_, err := b.Claim(b.ctx, b.request(ids))
	about, ok := err.(*driver.JobError)
	if !ok || about.Reason == "" {
		t.Fatalf("the claim says %v, want a *JobError", err)
	}
	if err := b.Quarantine(b.ctx, []driver.BadJob{{ID: ids[1], Why: about}}); err != nil {
		t.Fatal(err)
	}
	if batch := b.claim([]int64{ids[0], ids[2]}); len(batch.Jobs) != 2 {
		t.Errorf("claimed %d of the two others", len(batch.Jobs))
	}
	if n := b.count("SELECT count(*) FROM reactor.failed_jobs WHERE job_id = $1 AND reason LIKE '%spoiled%'", ids[1]); n != 1 {
		t.Error("the one is not recorded")
	}
	b.exec("ALTER TABLE jobs DROP CONSTRAINT spoiled")
	if batch := b.claim(ids); len(batch.Jobs) != 1 {
		t.Errorf("claimed %d jobs after the constraint was dropped", len(batch.Jobs))
	}
	if n := b.count("SELECT count(*) FROM reactor.failed_jobs"); n != 0 {
		t.Error("it is still recorded as failed")
	}
	b.exec("BEGIN; LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
	defer b.exec("ROLLBACK")
	if _, err := b.Claim(b.ctx, b.request(ids)); err == nil {
		t.Error("claimed from a locked table")
	} else if _, ok := err.(*driver.JobError); ok {
		t.Errorf("a lock is taken for a fault of a row: %v", err)
	}
}
