package pgsource_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// BenchmarkClaimRetention is what retention costs a claim: nothing of it, its index, and its index while
// rows are being deleted all the time, of a table that has hundreds of thousands of them.
func BenchmarkClaimRetention(b *testing.B) {
	for _, c := range []struct {
		name           string
		index, purging bool
	}{{"without", false, false}, {"index", true, false}, {"purging", true, true}} {
		b.Run(c.name, func(b *testing.B) {
			db := newBench(b)
			if c.index {
				db.exec(pgsource.RetentionIndexSQL("public.jobs"))
			}
			db.exec("INSERT INTO jobs (topic, payload, fire_at, processed, processed_at, claim) SELECT 't/' || n, 'payload ' || n, now() - interval '2 days', true, now() - interval '1 day' - n * interval '1 second', gen_random_uuid() FROM generate_series(1, 400000) n")
			db.exec("VACUUM ANALYZE jobs")
			req := driver.ClaimRequest{QoS: 1, Lease: db.lease, From: driver.DistantPast, To: 1 << 62, Within: time.Second, FirstSlot: 1, Reach: 512, Bytes: 8 << 20}
			var ids []int64
			var purged chan error
			stop := func() {}
			b.ResetTimer()
			for done := 0; done < b.N; done += benchBatch {
				if len(ids) == 0 {
					b.StopTimer()
					db.exec("TRUNCATE reactor.in_flight")
					ids = db.insert(benchJobs, "-1 s")
					if c.purging && purged == nil {
						var ctx context.Context
						ctx, stop = context.WithCancel(db.ctx)
						purged = make(chan error, 1)
						go func() {
							_, err := pgsource.Retention{DatabaseURL: db.url, Keep: time.Hour, ByIndexOnly: true}.Purge(ctx)
							purged <- err
						}()
					}
					b.StartTimer()
				}
				req.IDs = ids[:benchBatch]
				if batch, err := db.Claim(db.ctx, req); err != nil || len(batch.Jobs) != benchBatch {
					b.Fatal(len(batch.Jobs), err)
				}
				ids = ids[benchBatch:]
			}
			b.StopTimer()
			stop()
			if purged == nil {
				return
			}
			if err := <-purged; !errors.Is(err, context.Canceled) {
				b.Fatalf("it did not purge all the time: %v", err)
			}
		})
	}
}
