package reactor

import (
	"slices"
	"sync"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// recent tells the lateness of the last minute, for driver.Snapshot: it is what was counted in all, less what had
// been counted a minute ago. So it costs nothing for each job. The zero value is ready.
type recent struct {
	mu sync.Mutex
	// kept is what had been counted at some times, oldest first. It is guarded by mu.
	kept []keptCount
}

// keptCount is what had been counted at a time after began.
type keptCount struct {
	at      time.Duration
	buckets []Bucket
}

const (
	// recentWindow is what get tells of: this long, and about a slice more at most, if it is called with each
	// heartbeat.
	recentWindow = time.Minute
	// recentSlice is the time between two counts that are kept.
	recentSlice = 10 * time.Second
)

// get returns what was counted within the window. c is what has been counted by now.
func (r *recent) get(c counted) driver.Recent { return r.getAt(time.Since(began), c) }

func (r *recent) getAt(at time.Duration, c counted) driver.Recent {
	r.mu.Lock()
	defer r.mu.Unlock()
	// The youngest of those that are a window old is the beginning. Those before it are not needed any more.
	for len(r.kept) > 1 && at-r.kept[1].at >= recentWindow {
		r.kept = slices.Delete(r.kept, 0, 1)
	}
	if n := len(r.kept); n == 0 || at-r.kept[n-1].at >= recentSlice {
		r.kept = append(r.kept, keptCount{at, c.buckets})
	}
	if at-r.kept[0].at >= recentWindow {
		c = c.less(r.kept[0].buckets)
	}
	got := driver.Recent{Window: recentWindow, Jobs: c.total}
	if c.total > 0 {
		got.P50, got.P99, got.Max = microseconds(c.percentile(50)), microseconds(c.percentile(99)), microseconds(c.max)
	}
	return got
}

// less returns what was counted since there were these buckets. Its largest value is exact to a hundredth.
func (c counted) less(before []Bucket) counted {
	since := counted{}
	for _, b := range c.buckets {
		if len(before) > 0 && before[0].Most == b.Most {
			b.Count -= before[0].Count
			before = before[1:]
		}
		if b.Count > 0 {
			since.buckets = append(since.buckets, b)
			since.total += b.Count
			since.max = min(b.Most, c.max)
		}
	}
	return since
}

// snapshot is what the instance tells of itself with its next heartbeat.
func (r *Reactor) snapshot() driver.Snapshot {
	s := r.vitals()
	h := s.Health()
	accepted := r.stats.accepted.histogram.get()
	return driver.Snapshot{
		Ready: h.Ready, Problems: h.Problems, Published: s.Published, Failed: s.Failed,
		Pending: s.Pending, InFlight: s.InFlight, Shards: s.Shards, Lanes: s.Lanes, LanesUp: s.LanesUp,
		OldestDue: s.OldestDue, Recent: r.recent.get(accepted), History: r.history.get(r.clock.Now(), accepted),
	}
}
