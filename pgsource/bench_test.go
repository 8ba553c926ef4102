package pgsource_test

import (
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// The stages of a job in the database, on a real server. An op is one job throughout, so that
// allocs/op shows the cost of a job besides its message: its share of the batch.
const (
	benchBatch = 512
	benchJobs  = 40 * benchBatch
)

// batches calls do for b.N jobs, a batch at a time. fresh inserts jobs with the timer stopped,
// whenever none are left.
func batches(b *testing.B, db *bench, do func(ids []int64)) {
	b.ReportAllocs()
	var ids []int64
	b.ResetTimer()
	for done := 0; done < b.N; done += benchBatch {
		if len(ids) == 0 {
			b.StopTimer()
			db.exec("TRUNCATE jobs, reactor.in_flight")
			ids = db.insert(benchJobs, "-1 s")
			db.exec("VACUUM ANALYZE jobs")
			b.StartTimer()
		}
		do(ids[:benchBatch])
		ids = ids[benchBatch:]
	}
}

func BenchmarkClaim(b *testing.B) {
	db := newBench(b)
	req := driver.ClaimRequest{QoS: 1, Lease: db.lease, Within: time.Second, FirstSlot: 1, Reach: 512, Bytes: 8 << 20}
	batches(b, db, func(ids []int64) {
		req.IDs = ids
		if batch, err := db.Claim(db.ctx, req); err != nil || len(batch.Jobs) != benchBatch {
			b.Fatal(len(batch.Jobs), err)
		}
	})
}

// BenchmarkLoad reads the loading window, as an instance does at its start with a backlog.
func BenchmarkLoad(b *testing.B) {
	db := newBench(b)
	db.insert(benchJobs, "-1 s")
	db.exec("VACUUM ANALYZE jobs")
	until := db.now().Add(time.Minute)
	b.ReportAllocs()
	b.ResetTimer()
	var cursors []driver.Cursor
	for done := 0; done < b.N; {
		if len(cursors) == 0 {
			for _, shard := range driver.AllShards.List() {
				cursors = append(cursors, driver.CursorAt(shard, driver.DistantPast))
			}
		}
		jobs, rest, err := db.LoadWindow(db.ctx, cursors, until, 4096)
		if err != nil || len(jobs) == 0 && len(rest) > 0 {
			b.Fatal(len(jobs), err)
		}
		cursors = rest
		done += len(jobs)
	}
}

// BenchmarkSettle settles whole batches, two at a time.
func BenchmarkSettle(b *testing.B) {
	db := newBench(b)
	var open []driver.Settlement
	batches(b, db, func(ids []int64) {
		b.StopTimer()
		batch := db.claim(ids)
		open = append(open, driver.Settlement{BatchID: batch.ID, Token: batch.Token, Lease: db.lease, Concluded: benchBatch, Done: true, Jobs: benchBatch, Kept: benchBatch})
		b.StartTimer()
		if len(open) == 2 {
			if _, err := db.Settle(db.ctx, open); err != nil {
				b.Fatal(err)
			}
			open = open[:0]
		}
	})
}

// BenchmarkMark updates the progress of a batch at QoS 2 by 64 jobs.
func BenchmarkMark(b *testing.B) {
	const step = 64
	db := newBench(b)
	batch := db.claim(db.insert(benchBatch, "-1 s"))
	st := driver.Settlement{BatchID: batch.ID, Token: batch.Token, Lease: db.lease, Jobs: benchBatch, Kept: benchBatch}
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += step {
		st.Concluded = done % benchBatch
		if st.Concluded == 0 {
			b.StopTimer()
			db.exec("UPDATE reactor.in_flight SET settled = 0")
			b.StartTimer()
		}
		if held, err := db.Settle(db.ctx, []driver.Settlement{st}); err != nil || !held[0].Recorded {
			b.Fatal(held, err)
		}
	}
}
