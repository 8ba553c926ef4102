package pgsource_test

import (
	"testing"
	"time"

	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// feeds are the feeds that announce jobs.
var feeds = []pgsource.Feed{pgsource.FeedNotify, pgsource.FeedWAL}

// overFeeds runs a test over each feed.
func overFeeds(t *testing.T, test func(t *testing.T, b *bench, feed pgsource.Feed)) {
	for _, feed := range feeds {
		t.Run(feed.String(), func(t *testing.T) { test(t, newBench(t), feed) })
	}
}

// nextJobs returns the next hint about jobs of which at least one is due within a minute: the WAL
// feed also announces all others.
func nextJobs(b *bench, hints <-chan driver.Hint) driver.Hint {
	b.t.Helper()
	for {
		select {
		case h := <-hints:
			if h.Kind == driver.HintJobs && time.Duration(h.Earliest-b.now())*time.Microsecond < time.Minute {
				return h
			}
		case <-b.ctx.Done():
			b.t.Fatal("no hint comes")
		}
	}
}

func TestFeedHints(t *testing.T) {
	overFeeds(t, func(t *testing.T, b *bench, feed pgsource.Feed) {
		s := open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, Feed: feed})
		hints, _ := listen(t, b.ctx, s)
		if got := s.FeedState(); got.Kind != feed.String() || got.Problem != "" {
			t.Errorf("the feed is %+v", got)
		}

		b.insert(1, "1 hour")
		ids := b.insert(20000, "5 seconds")
		h := nextJobs(b, hints)
		if h.MinID != ids[0] || h.MaxID != ids[len(ids)-1] {
			t.Fatalf("20,000 rows: %+v, want one hint for %d … %d", h, ids[0], ids[len(ids)-1])
		}
		if due := time.Duration(h.Earliest-b.now()) * time.Microsecond; due < time.Second || due > 6*time.Second {
			t.Errorf("the earliest is due in %v", due)
		}
		if feed == pgsource.FeedWAL && h.Shards != ^driver.ShardSet(0) {
			t.Errorf("20,000 rows are of the shards %v", h.Shards.List())
		}
		// A cancellation: silence, then
		b.exec("UPDATE jobs SET processed = true WHERE id = $1", ids[0])
		b.exec("DELETE FROM jobs WHERE id = $1", ids[1])
		b.exec("INSERT INTO jobs (topic, fire_at, processed) VALUES ('archived', now(), true)")
		b.exec("UPDATE jobs SET fire_at = now() WHERE id = $1", ids[2])
		if h := nextJobs(b, hints); h.MinID != ids[2] || h.MaxID != ids[2] {
			t.Fatalf("a rescheduled job: %+v, want %d", h, ids[2])
		} else if shard := b.count("SELECT shard FROM jobs WHERE id = $1", ids[2]); h.Shards != 0 && h.Shards != driver.ShardSet(0).With(uint8(shard)) {
			t.Errorf("a job of shard %d: %v", shard, h.Shards.List())
		}
		b.exec("UPDATE jobs SET processed = false WHERE id = $1", ids[0])
		if h := nextJobs(b, hints); h.MinID != ids[0] || h.MaxID != ids[0] {
			t.Fatalf("a revived job: %+v, want %d", h, ids[0])
		}
	})
}

// TestFeedMembership: each feed announces changes of shards and lanes to instances that use another
// feed.
func TestFeedMembership(t *testing.T) {
	overFeeds(t, func(t *testing.T, b *bench, feed pgsource.Feed) {
		s := open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, Feed: feed})
		hints, _ := listen(t, b.ctx, s)
		if err := b.member.ReleaseShards(b.ctx); err != nil {
			t.Fatal(err)
		}
		for {
			select {
			case h := <-hints:
				if h.Kind == driver.HintMembership {
					return
				}
			case <-b.ctx.Done():
				t.Fatal("the news did not come")
			}
		}
	})
}
