package pgsource_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

func TestClaimJournalsWhatItTakes(t *testing.T) {
	b := newBench(t)
	ids := b.insert(10, "-1 second")
	batch := b.claim(ids)
	if len(batch.Jobs) != 10 || batch.ID == 0 {
		t.Fatalf("claimed %+v", batch)
	}
	for i, job := range batch.Jobs {
		if job.ID != ids[i] || job.Topic == "" || !bytes.HasPrefix(job.Payload, []byte("payload ")) {
			t.Errorf("job %d is %+v", i, job)
		}
		if i > 0 && job.FireAt < batch.Jobs[i-1].FireAt {
			t.Errorf("job %d is out of order", i)
		}
	}
	if n := b.count("SELECT count(*) FROM jobs WHERE processed AND processed_at >= fire_at"); n != 10 {
		t.Errorf("%d jobs are marked", n)
	}
	if n := b.count("SELECT cardinality(job_ids) FROM reactor.in_flight WHERE lane = $1", b.lease.Lane); n != 10 {
		t.Errorf("%d jobs are journalled", n)
	}
	if again := b.claim(ids); len(again.Jobs) != 0 {
		t.Errorf("claimed twice: %+v", again)
	}
	b.settle(driver.Settlement{BatchID: batch.ID, Token: batch.Token, Lease: b.lease, Jobs: 10, Kept: 10, Concluded: 10, Done: true})
	if n := b.count("SELECT count(*) FROM reactor.in_flight"); n != 0 {
		t.Errorf("%d batches are left after settling", n)
	}
}

// TestClaimLooksAgain: an entry of the wheel may be outdated in every way.
func TestClaimLooksAgain(t *testing.T) {
	b := newBench(t)
	ids := b.insert(6, "0")
	b.exec("DELETE FROM jobs WHERE id = $1", ids[0])
	b.exec("UPDATE jobs SET processed = true WHERE id = $1", ids[1])
	b.exec("UPDATE jobs SET fire_at = now() + interval '1 year' WHERE id = $1", ids[2])
	tx, err := connect(t, b.ctx, b.url).Begin(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(b.ctx)
	if _, err := tx.Exec(b.ctx, "UPDATE jobs SET payload = 'locked' WHERE id = $1", ids[3]); err != nil {
		t.Fatal(err)
	}
	batch := b.claim(ids)
	if len(batch.Jobs) != 2 || batch.Jobs[0].ID != ids[4] || batch.Jobs[1].ID != ids[5] {
		t.Fatalf("claimed %+v, want the last two of %v", batch.Jobs, ids)
	}
	if err := tx.Commit(b.ctx); err != nil {
		t.Fatal(err)
	}
	pending, err := b.LoadIDs(b.ctx, driver.AllShards, ids, driver.DistantPast, b.now().Add(time.Minute), true)
	if err != nil || len(pending) != 1 || pending[0].ID != ids[3] {
		t.Fatalf("looking again found %+v, %v, want the unlocked %d", pending, err, ids[3])
	}
	if batch := b.claim(ids); len(batch.Jobs) != 1 || string(batch.Jobs[0].Payload) != "locked" {
		t.Fatalf("claimed %+v", batch.Jobs)
	}
}

func TestClaimIsFenced(t *testing.T) {
	b := newBench(t)
	ids := b.insert(3, "0")
	stale := b.request(ids)
	stale.Lease.Epoch--
	if _, err := b.Claim(b.ctx, stale); !errors.Is(err, driver.ErrLeaseLost) {
		t.Errorf("an old epoch claimed: %v", err)
	}
	stranger := b.request(ids)
	stranger.Lease.Owner++
	if _, err := b.Claim(b.ctx, stranger); !errors.Is(err, driver.ErrLeaseLost) {
		t.Errorf("a stranger claimed: %v", err)
	}
	// Without shards, there is nothing to claim; with a static share, the share counts.
	b.exec("UPDATE reactor.shards SET owner = NULL")
	if batch := b.claim(ids); len(batch.Jobs) != 0 {
		t.Errorf("claimed %d jobs of shards that are not ours", len(batch.Jobs))
	}
	static := b.request(ids)
	static.Static = driver.AllShards
	if batch, err := b.Claim(b.ctx, static); err != nil || len(batch.Jobs) != 3 {
		t.Errorf("a static share claimed %d jobs: %v", len(batch.Jobs), err)
	}
}

func TestSettleInParts(t *testing.T) {
	b := newBench(t)
	ids := b.insert(10, "0")
	batch := b.claim(ids)
	part := driver.Settlement{BatchID: batch.ID, Token: batch.Token, Lease: b.lease, Jobs: 10, Kept: 10, Concluded: 4}
	b.settle(part)
	b.settle(part)
	recovered, err := b.Recover(b.ctx, b.lease)
	if err != nil || len(recovered) != 1 || len(recovered[0].Jobs) != 6 || recovered[0].Jobs[0].ID != ids[4] {
		t.Fatalf("recovered %+v, %v", recovered, err)
	}
	if recovered[0].FirstSlot != 5 || recovered[0].QoS != 1 {
		t.Errorf("recovered with slot %d, QoS %d", recovered[0].FirstSlot, recovered[0].QoS)
	}
	// The last two of the six were never sent: they go back. One was refused.
	back := driver.Settlement{
		BatchID: batch.ID, Token: batch.Token, Lease: b.lease, Jobs: 6, Kept: 4, Concluded: 4, Done: true,
		Failures: []driver.Failure{{JobID: ids[5], Code: 0x87, Reason: "not authorized"}},
	}
	b.settle(back)
	b.settle(back)
	if n := b.count("SELECT count(*) FROM jobs WHERE NOT processed AND id = ANY ($1)", ids[8:]); n != 2 {
		t.Errorf("%d of 2 jobs went back", n)
	}
	if n := b.count("SELECT attempts FROM reactor.retries WHERE job_id = $1 AND retry_at > now() AND code = 135", ids[5]); n != 1 {
		t.Errorf("the refused job has %d attempts, want 1", n)
	}
	if n := b.count("SELECT count(*) FROM reactor.in_flight"); n != 0 {
		t.Errorf("%d batches are left", n)
	}
}

func TestRefusedJobsEndAsFailed(t *testing.T) {
	b := newBench(t) // with two attempts
	id := b.insert(1, "0")
	for attempt := 1; attempt <= 2; attempt++ {
		batch := b.claim(id)
		b.settle(driver.Settlement{
			BatchID: batch.ID, Token: batch.Token, Lease: b.lease, Jobs: 1, Kept: 1, Concluded: 1, Done: true,
			Failures: []driver.Failure{{JobID: id[0], Code: 0x87, Reason: "not authorized"}},
		})
		pending, err := b.LoadIDs(b.ctx, driver.AllShards, id, driver.DistantPast, b.now().Add(time.Minute), true)
		if err != nil {
			t.Fatal(err)
		}
		switch attempt {
		case 1:
			if len(pending) != 1 || pending[0].DueAt <= b.now().Add(500*time.Millisecond) {
				t.Fatalf("after the first refusal: %+v, want it due after a pause", pending)
			}
		case 2:
			if len(pending) != 0 {
				t.Fatalf("after the last refusal: %+v", pending)
			}
		}
	}
	if n := b.count("SELECT attempts FROM reactor.failed_jobs WHERE job_id = $1 AND code = 135 AND reason = 'not authorized'", id[0]); n != 2 {
		t.Errorf("the failed job has %d attempts", n)
	}
	if n := b.count("SELECT count(*) FROM reactor.retries"); n != 0 {
		t.Errorf("%d retries are left", n)
	}
	// Its owner may try again.
	b.exec("UPDATE jobs SET processed = false WHERE id = $1", id[0])
	if batch := b.claim(id); len(batch.Jobs) != 1 {
		t.Error("a revived job cannot be claimed")
	}
}

// TestRecoverSkipsDeletedRows: deleting a claimed row cancels the job if it was not published.
func TestRecoverSkipsDeletedRows(t *testing.T) {
	b := newBench(t)
	ids := b.insert(3, "0")
	b.claim(ids)
	b.exec("DELETE FROM jobs WHERE id = $1", ids[1])
	recovered, err := b.Recover(b.ctx, b.lease)
	if err != nil || len(recovered) != 1 || len(recovered[0].Jobs) != 3 {
		t.Fatalf("recovered %+v, %v", recovered, err)
	}
	if jobs := recovered[0].Jobs; jobs[1].Topic != "" || jobs[2].Topic == "" || len(jobs[0].Payload) == 0 {
		t.Errorf("recovered %+v", jobs)
	}
}

// TestUnknownOutcome cuts the connection at the claim's commit: before the statement reaches the
// server, and before its answer reaches us.
func TestUnknownOutcome(t *testing.T) {
	for name, direction := range map[string]netfault.Direction{"statement lost": netfault.ToServer, "answer lost": netfault.ToClient} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			proxy := testkit.NewProxy(t, b.url)
			s := open(t, b.ctx, pgsource.Config{DatabaseURL: proxy.Through(b.url), Name: "behind the proxy"})
			m, lease := b.join(s)
			defer m.Leave(b.ctx)
			b.exec("UPDATE reactor.shards SET owner = $1", lease.Owner)
			ids := b.insert(5, "0")

			req := b.request(ids)
			req.Lease = lease
			// Only the claim names its token, and only its answer the payload.
			req.Token = [16]byte([]byte("an unusual token"))
			marker := req.Token[:]
			if direction == netfault.ToClient {
				marker = []byte("payload 1")
			}
			proxy.SetHook(func(c netfault.Chunk) netfault.Verdict {
				if c.Direction == direction && bytes.Contains(c.Data, marker) {
					return netfault.Verdict{Forward: 0, Then: netfault.FaultCut}
				}
				return netfault.Verdict{Forward: len(c.Data)}
			})
			_, err := s.Claim(b.ctx, req)
			proxy.SetHook(nil)
			var unknown *driver.UnknownError
			if !errors.As(err, &unknown) {
				t.Fatalf("the claim says %v, want an unknown outcome", err)
			}
			batch, raised, ok, err := s.ResolveClaim(b.ctx, req)
			if err != nil || raised.Epoch <= lease.Epoch {
				t.Fatalf("resolved: %v, %+v", err, raised)
			}
			claimed := b.count("SELECT count(*) FROM jobs WHERE processed")
			if ok != (claimed == 5) || ok && len(batch.Jobs) != 5 || !ok && claimed != 0 {
				t.Fatalf("resolved to %t with %d jobs, %d are claimed", ok, len(batch.Jobs), claimed)
			}
			if ok != (direction == netfault.ToClient) {
				t.Errorf("resolved to %t", ok)
			}
			if _, err := s.Claim(b.ctx, req); !errors.Is(err, driver.ErrLeaseLost) {
				t.Errorf("a claim with the old epoch: %v", err)
			}
			// The answer may be lost, so it is asked again.
			if _, again, _, err := s.ResolveClaim(b.ctx, req); err != nil || again.Epoch != raised.Epoch || again.Epoch != lease.Epoch+1 {
				t.Errorf("resolved again: %v, %+v", err, again)
			}
			// Another instance has had the lane in between.
			b.exec("UPDATE reactor.lanes SET epoch = epoch + 1 WHERE lane = $1", lease.Lane)
			if _, _, _, err := s.ResolveClaim(b.ctx, req); !errors.Is(err, driver.ErrLeaseLost) {
				t.Errorf("resolved with the epoch of another owner: %v", err)
			}
		})
	}
}

// TestGivenUpIsToldAgain: a settlement whose answer was lost is repeated unchanged. Its answer
// still names the job that the first attempt gave up.
func TestGivenUpIsToldAgain(t *testing.T) {
	for name, done := range map[string]bool{"all": true, "a part": false} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			ids := b.insert(3, "0")
			batch := b.claimExactlyOnce(ids)
			st := driver.Settlement{
				BatchID: batch.ID, Token: batch.Token, Lease: b.lease, Jobs: 3, Kept: 3, Concluded: 2, Done: done,
				Failures: []driver.Failure{
					{JobID: ids[0], Code: 0x97, Reason: "to be tried again"},
					{JobID: ids[1], Code: 0x87, Reason: "not authorized", Final: true},
				},
			}
			for try := range 2 {
				outcomes, err := b.Settle(b.ctx, []driver.Settlement{st})
				if err != nil {
					t.Fatal(err)
				}
				if got := outcomes[0].GivenUp; len(got) != 1 || got[0].JobID != ids[1] {
					t.Errorf("try %d: given up are %+v, want job %d", try, got, ids[1])
				}
			}
			// Another claim's settlement gives up nothing of this one.
			st.Token[0]++
			outcomes, err := b.Settle(b.ctx, []driver.Settlement{st})
			if err != nil || len(outcomes[0].GivenUp) != 0 {
				t.Errorf("given up are %+v, %v", outcomes[0].GivenUp, err)
			}
		})
	}
}
