package pgsource_test

import (
	"testing"

	"github.com/job-publisher/reactor/reactor/driver"
)

// claimExactlyOnce claims at QoS 2.
func (b *bench) claimExactlyOnce(ids []int64) driver.Batch {
	b.t.Helper()
	req := b.request(ids)
	req.QoS = 2
	batch, err := b.Claim(b.ctx, req)
	if err != nil || len(batch.Jobs) != len(ids) {
		b.t.Fatalf("claimed %d of %d jobs: %v", len(batch.Jobs), len(ids), err)
	}
	return batch
}

// mark settles and reports whether the lane was still ours.
func (b *bench) mark(st driver.Settlement) bool {
	b.t.Helper()
	held, err := b.Settle(b.ctx, []driver.Settlement{st})
	if err != nil {
		b.t.Fatal(err)
	}
	return held[0].Recorded
}

// recoverOne returns the lane's only batch.
func (b *bench) recoverOne() driver.Batch {
	b.t.Helper()
	batches, err := b.Recover(b.ctx, b.lease)
	if err != nil || len(batches) != 1 {
		b.t.Fatalf("recovered %d batches, %v", len(batches), err)
	}
	return batches[0]
}

// TestMarks: jobs that the broker has received stay in the journal until they are released, because
// their slots are used until then.
func TestMarks(t *testing.T) {
	b := newBench(t)
	batch := b.claimExactlyOnce(b.insert(10, "0"))
	st := driver.Settlement{BatchID: batch.ID, Token: batch.Token, Lease: b.lease, Jobs: 10, Kept: 10, Concluded: 4}
	for range 2 {
		if !b.mark(st) {
			t.Fatal("a mark of our own lane is said to be another's")
		}
	}
	if got := b.recoverOne(); len(got.Jobs) != 10 || got.Concluded != 4 || got.FirstSlot != batch.FirstSlot {
		t.Errorf("recovered %d jobs from slot %d, %d settled", len(got.Jobs), got.FirstSlot, got.Concluded)
	}
	st.Concluded = 2 // progress that was overtaken by a later one
	b.mark(st)
	if got := b.recoverOne(); got.Concluded != 4 {
		t.Errorf("the mark went back to %d", got.Concluded)
	}
	st.Concluded, st.Done = 10, true
	b.mark(st)
	if n := b.count("SELECT count(*) FROM reactor.in_flight"); n != 0 {
		t.Errorf("%d batches are left", n)
	}
}

// TestMarkAfterTakeover: the answer to a settlement tells an instance that it has lost the lane,
// because it must not release what the new owner will send again.
func TestMarkAfterTakeover(t *testing.T) {
	b := newBench(t)
	batch := b.claimExactlyOnce(b.insert(3, "0"))
	b.exec("UPDATE reactor.lanes SET owner = owner + 1, epoch = epoch + 1 WHERE lane = $1", b.lease.Lane)
	st := driver.Settlement{BatchID: batch.ID, Token: batch.Token, Lease: b.lease, Jobs: 3, Kept: 3, Concluded: 2}
	if b.mark(st) {
		t.Error("a mark in another's lane is said to be held")
	}
	st.Failures = []driver.Failure{{JobID: batch.Jobs[0].ID, Code: 0x97, Reason: "quota exceeded"}}
	if b.mark(st) {
		t.Error("a failure in another's lane is said to be held")
	}
	st.Failures, st.Kept = nil, 2
	if b.mark(st) {
		t.Error("a hand-back in another's lane is said to be held")
	}
	if n := b.count("SELECT count(*) FROM reactor.in_flight WHERE settled > 0 OR cardinality(job_ids) < 3"); n != 0 {
		t.Error("the journal of another's lane was changed")
	}
	if n := b.count("SELECT count(*) FROM jobs WHERE NOT processed"); n != 0 {
		t.Errorf("%d jobs of another's lane went back to the table", n)
	}
}

// TestReopen: after the broker has lost the session, earlier settlements do not count, not even if
// they arrive later.
func TestReopen(t *testing.T) {
	b := newBench(t)
	batch := b.claimExactlyOnce(b.insert(3, "0"))
	st := driver.Settlement{BatchID: batch.ID, Token: batch.Token, Lease: b.lease, Jobs: 3, Kept: 3, Concluded: 2}
	b.mark(st)
	for range 2 {
		if err := b.Reopen(b.ctx, b.lease, 7, ""); err != nil {
			t.Fatal(err)
		}
	}
	b.mark(st) // the settlement of a connection that was given up arrives late
	st.Done, st.Concluded = true, 3
	b.mark(st)
	got := b.recoverOne()
	if got.Concluded != 0 || got.Round != 7 {
		t.Fatalf("recovered with %d settled in round %d, want 0 in round 7", got.Concluded, got.Round)
	}
}

// TestFailedJobsLeaveTheBatch: a refused job is tried again on its own; recovering its
// batch must not publish it as well.
func TestFailedJobsLeaveTheBatch(t *testing.T) {
	b := newBench(t)
	ids := b.insert(3, "0")
	batch := b.claimExactlyOnce(ids)
	st := driver.Settlement{
		BatchID: batch.ID, Token: batch.Token, Lease: b.lease, Jobs: 3, Kept: 3, Concluded: 2,
		Failures: []driver.Failure{{JobID: ids[1], Code: 0x87, Reason: "not authorized"}},
	}
	for range 2 {
		if !b.mark(st) {
			t.Fatal("not held")
		}
	}
	if n := b.count("SELECT attempts FROM reactor.retries WHERE job_id = $1", ids[1]); n != 1 {
		t.Errorf("%d attempts are counted, want 1", n)
	}
	got := b.recoverOne()
	if len(got.Jobs) != 3 || got.Concluded != 2 || got.Jobs[1].Topic != "" || got.Jobs[0].Topic == "" {
		t.Errorf("recovered %+v", got)
	}
}
