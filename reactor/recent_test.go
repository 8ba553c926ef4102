package reactor

import (
	"slices"
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestRecentForgets: what is older than the window, and a slice of it, does not count; what is younger does.
func TestRecentForgets(t *testing.T) {
	var r recent
	const begin = time.Hour
	r.observeAt(begin, time.Second, 2*time.Second)
	for i := range 100 {
		r.observeAt(begin+recentWindow, time.Duration(i+1)*time.Millisecond)
	}
	if got := r.getAt(begin + recentWindow); got.Jobs != 102 || got.Max != 2*time.Second || got.Window != time.Minute {
		t.Errorf("within the window: %+v", got)
	}
	got := r.getAt(begin + recentWindow + recentLength)
	if got.Jobs != 100 || got.Max != 100*time.Millisecond || !about(got.P50, 50*time.Millisecond) || !about(got.P99, 99*time.Millisecond) {
		t.Errorf("after the window: %+v", got)
	}
	if got := r.getAt(begin + 3*recentWindow); got.Jobs != 0 || got.P99 != 0 || got.Max != 0 {
		t.Errorf("long after: %+v", got)
	}
	// The ring comes round: a slice is used again.
	r.observeAt(begin+10*recentWindow, time.Microsecond)
	if got := r.getAt(begin + 10*recentWindow); got.Jobs != 1 || got.Max != time.Microsecond {
		t.Errorf("when the ring has come round: %+v", got)
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
