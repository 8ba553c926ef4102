package reactor

import (
	"slices"
	"sync"

	"github.com/job-publisher/reactor/reactor/driver"
)

// history keeps what driver.History tells of this instance, from what was counted in all: so it costs nothing for each
// job. The zero value is ready.
//
// It is asked with each heartbeat, which does not come at the end of a slice. What was counted by then is taken from the
// line between the two heartbeats around it; otherwise a steady load would look unsteady by a tenth.
type history struct {
	mu sync.Mutex
	// All that follows is guarded by mu.
	slices []driver.Slice
	until  driver.DBTime // the end of the last slice
	bound  int64         // how many jobs were counted by then
	// buckets are what had been counted when the last slice was closed.
	buckets []Bucket
	// sampled is when it was asked last, and total what had been counted by then.
	sampled driver.DBTime
	total   int64
	asked   bool
}

// get returns the slices up to now. c is what has been counted by now.
func (h *history) get(now driver.DBTime, c counted) driver.History {
	const length = driver.DBTime(driver.HistorySlice / 1000) // in microseconds
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.asked && h.sampled <= now && now < h.until+driver.HistorySlices*length {
		h.close(now, length, c)
	} else { // nothing is known, or not any more: the database's clock was set
		h.slices, h.until = nil, now-((now%length)+length)%length
		h.bound, h.buckets, h.asked = c.total, c.buckets, true
	}
	h.sampled, h.total = now, c.total
	return driver.History{Until: h.until, Slice: driver.HistorySlice, Slices: slices.Clone(h.slices)}
}

// close ends the slices whose time is over.
func (h *history) close(now, length driver.DBTime, c counted) {
	if now < h.until+length {
		return
	}
	late := c.less(h.buckets)
	for ; now >= h.until+length; h.until += length {
		bound := h.total + int64(float64(c.total-h.total)*float64(h.until+length-h.sampled)/float64(now-h.sampled))
		s := driver.Slice{Jobs: bound - h.bound}
		if s.Jobs > 0 && late.total > 0 {
			s.P10, s.P50, s.P90, s.P99, s.Max = microseconds(late.percentile(10)), microseconds(late.percentile(50)), microseconds(late.percentile(90)), microseconds(late.percentile(99)), microseconds(late.max)
		} else if n := len(h.slices); s.Jobs > 0 && n > 0 { // they came between two heartbeats at its beginning, and were counted there
			jobs := s.Jobs
			s = h.slices[n-1]
			s.Jobs = jobs
		}
		h.bound = bound
		if h.slices = append(h.slices, s); len(h.slices) > driver.HistorySlices {
			h.slices = slices.Delete(h.slices, 0, 1)
		}
	}
	h.buckets = c.buckets
}
