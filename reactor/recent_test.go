package reactor

import (
	"slices"
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestRecentForgets: what is older than the window, and a slice of it, does not count; what is younger does.
func TestRecentForgets(t *testing.T) {
	var (
		r     recent
		late  timing
		begin = time.Hour
	)
	after := func(d time.Duration) driver.Recent { return r.getAt(begin+d, late.histogram.get()) }
	if got := after(0); got.Jobs != 0 || got.P99 != 0 || got.Max != 0 {
		t.Errorf("at first: %+v", got)
	}
	late.observe(time.Second, 2*time.Second)
	for d := time.Duration(0); d < recentWindow; d += 3 * time.Second {
		if got := after(d); got.Jobs != 2 || got.Max != 2*time.Second || got.Window != time.Minute {
			t.Errorf("after %v: %+v", d, got)
		}
	}
	for i := range 100 {
		late.observe(time.Duration(i+1) * time.Millisecond)
	}
	if got := after(recentWindow); got.Jobs != 102 || !about(got.Max, 2*time.Second) {
		t.Errorf("at the end of the window: %+v", got)
	}
	got := after(recentWindow + 2*recentSlice)
	if got.Jobs != 100 || !about(got.Max, 100*time.Millisecond) || !about(got.P50, 50*time.Millisecond) || !about(got.P99, 99*time.Millisecond) {
		t.Errorf("after the window: %+v", got)
	}
	for d := recentWindow; d < 3*recentWindow; d += 3 * time.Second {
		got = after(d)
	}
	if got.Jobs != 0 || got.P99 != 0 || got.Max != 0 {
		t.Errorf("long after: %+v", got)
	}
	if most := int(recentWindow/recentSlice) + 2; len(r.kept) > most {
		t.Errorf("%d counts are kept, more than %d", len(r.kept), most)
	}
}

// about is whether a percentile is as exact as it should be.
func about(got, want time.Duration) bool { return got >= want && got <= want+want/100 }

// TestSnapshot: each heartbeat tells how the instance is doing by then.
func TestSnapshot(t *testing.T) {
	runInstance(t, Config{Lanes: 2}, []driver.Job{jobAt(1, 0)}, func(in *instanceOf) {
		time.Sleep(20 * time.Second)
		in.source.mu.Lock()
		s := in.source.reported
		in.source.mu.Unlock()
		if s.Published != 1 || s.Shards != 1 || s.Lanes != 2 || s.LanesUp != 1 || s.Recent.Jobs != 1 {
			in.Errorf("%+v", s)
		}
		if !s.Ready || !slices.Equal(s.Problems, []string{"not all connections to the broker are up"}) {
			in.Errorf("ready %t, %q", s.Ready, s.Problems)
		}
	})
}
