package pgsource_test

import (
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

func cursors(from driver.DBTime) []driver.Cursor {
	var list []driver.Cursor
	for _, shard := range driver.AllShards.List() {
		list = append(list, driver.CursorAt(shard, from))
	}
	return list
}

// TestLoadWindowPages reads everything once, whatever the page size, also where all
// jobs are due at the same instant.
func TestLoadWindowPages(t *testing.T) {
	b := newBench(t)
	b.exec(`INSERT INTO jobs (topic, fire_at) SELECT 't', now() FROM generate_series(1, 1000)`)
	b.insert(500, "10 seconds")
	b.exec(`INSERT INTO jobs (topic, fire_at) VALUES ('long ago', '4713-01-01 BC'), ('far', '2999-01-01')`)
	until := b.now().Add(time.Minute)
	for _, limit := range []int{1, 7, 64, 100, 5000} {
		seen := map[int64]bool{}
		pages := 0
		last := [driver.Shards]driver.DBTime{}
		for i := range last {
			last[i] = driver.DistantPast
		}
		for rest := cursors(driver.DistantPast); len(rest) > 0; pages++ {
			var jobs []driver.Pending
			var err error
			if jobs, rest, err = b.LoadWindow(b.ctx, rest, until, limit); err != nil {
				t.Fatal(err)
			}
			if len(jobs) > limit {
				t.Fatalf("%d rows in a page of %d", len(jobs), limit)
			}
			for _, job := range jobs {
				if seen[job.ID] {
					t.Fatalf("page of %d: job %d was read twice", limit, job.ID)
				}
				seen[job.ID] = true
				if job.DueAt < last[job.Shard] {
					t.Fatalf("page of %d: shard %d went back in time", limit, job.Shard)
				}
				last[job.Shard] = job.DueAt
			}
		}
		if len(seen) != 1501 {
			t.Errorf("pages of %d: read %d of 1501 jobs", limit, len(seen))
		}
	}
}

func TestLoadKeepsToShardsAndTime(t *testing.T) {
	b := newBench(t)
	ids := b.insert(200, "0")
	late := b.insert(10, "1 hour")
	half := driver.StaticShards(2, 1)
	until := b.now().Add(time.Minute)
	jobs, err := b.LoadRange(b.ctx, half, ids[0], late[9], driver.DistantPast, until)
	if err != nil {
		t.Fatal(err)
	}
	if n := b.count("SELECT count(*) FROM jobs WHERE shard % 2 = 1 AND id = ANY ($1)", ids); len(jobs) != n {
		t.Errorf("read %d jobs, want %d", len(jobs), n)
	}
	for _, job := range jobs {
		if !half.Has(job.Shard) || job.DueAt >= until || job.Bytes == 0 {
			t.Errorf("read %+v", job)
		}
	}
	if jobs, err := b.LoadRange(b.ctx, 0, 0, 1<<40, driver.DistantPast, until); err != nil || jobs != nil {
		t.Errorf("without shards: %v, %v", jobs, err)
	}
}
