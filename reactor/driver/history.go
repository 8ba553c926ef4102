package driver

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// History is how many jobs the broker has accepted lately, and how late they were, in slices of equal length. An
// instance keeps its own; MergeHistories has that of a deployment.
type History struct {
	// Until is the end of the last slice, on the database's clock. It is a multiple of Slice since 1970, so that the
	// slices of all instances are of the same times.
	Until DBTime
	Slice time.Duration
	// Slices are in order, the oldest first; none: nothing is known yet.
	Slices []Slice
}

const (
	// HistorySlice is the length of a slice of an instance's own history.
	HistorySlice = 10 * time.Second
	// HistorySlices is how many an instance keeps: five minutes.
	HistorySlices = 30
)

// Slice is what happened in one slice of a history.
type Slice struct {
	// Jobs is how many were accepted. The percentiles of their lateness are too large by two hundredths at most, of one
	// instance; 0 if there were no jobs.
	Jobs                    int64
	P10, P50, P90, P99, Max time.Duration
}

// PerSecond is how many jobs a second a slice of this history has.
func (h History) PerSecond(s Slice) float64 { return float64(s.Jobs) / h.Slice.Seconds() }

// MergeHistories returns what all instances have done together. Jobs and Max are exact sums and maxima. Percentiles cannot
// be added, nor averaged: those of the result are the percentiles of all jobs together, if between two percentiles that
// an instance tells its jobs are spread evenly over the logarithm of lateness. They never lie outside of those of the
// instances.
//
// Histories of another slice length are left out. The result ends where all of those end that are up to date: an
// instance tells of a slice up to a heartbeat later than another one.
func MergeHistories(list ...History) (all History) {
	list = slices.DeleteFunc(slices.Clone(list), func(h History) bool {
		return len(h.Slices) == 0 || h.Slice != HistorySlice || h.Until%DBTime(HistorySlice.Microseconds()) != 0
	})
	if len(list) < 2 {
		if len(list) == 1 {
			all = list[0]
		}
		return all
	}
	latest := slices.MaxFunc(list, func(a, b History) int { return cmp.Compare(a.Until, b.Until) }).Until
	all = History{Until: latest, Slice: HistorySlice}
	for _, h := range list {
		if h.Until >= latest.Add(-HistorySlice) {
			all.Until = min(all.Until, h.Until)
		}
	}
	for end := all.Until.Add(-(HistorySlices - 1) * HistorySlice); end <= all.Until; end = end.Add(HistorySlice) {
		var parts []Slice
		for _, h := range list {
			// Until and end are multiples of a slice.
			if back := h.Until.Sub(end) / HistorySlice; back >= 0 && int(back) < len(h.Slices) {
				parts = append(parts, h.Slices[len(h.Slices)-1-int(back)])
			}
		}
		if parts != nil || all.Slices != nil {
			all.Slices = append(all.Slices, mergeSlices(parts))
		}
	}
	return all
}

func mergeSlices(parts []Slice) (s Slice) {
	parts = slices.DeleteFunc(parts, func(p Slice) bool { return p.Jobs <= 0 })
	if len(parts) == 1 {
		return parts[0]
	}
	var values []time.Duration
	for _, p := range parts {
		s.Jobs += p.Jobs
		for _, known := range p.known() {
			values = append(values, known.value)
		}
	}
	if s.Jobs == 0 {
		return s
	}
	slices.Sort(values)
	share := func(value time.Duration) (share float64) {
		for _, p := range parts {
			share += p.share(value) * float64(p.Jobs) / float64(s.Jobs)
		}
		return share
	}
	percentile := func(rank float64) time.Duration {
		before, below := time.Duration(1), 0.0
		for _, value := range values {
			at := share(value)
			if at >= rank-1e-9 {
				return between(before, value, (rank-below)/(at-below))
			}
			before, below = value, at
		}
		return values[len(values)-1]
	}
	s.P10, s.P50, s.P90, s.P99, s.Max = percentile(0.10), percentile(0.50), percentile(0.90), percentile(0.99), values[len(values)-1]
	return s
}

// ranked is a percentile, with its rank from 0 to 1.
type ranked struct {
	rank  float64
	value time.Duration
}

func (s Slice) known() [5]ranked {
	return [5]ranked{{0.10, s.P10}, {0.50, s.P50}, {0.90, s.P90}, {0.99, s.P99}, {1, s.Max}}
}

// share is which part of the jobs is not later than value.
func (s Slice) share(value time.Duration) float64 {
	before := ranked{0, time.Microsecond}
	for _, after := range s.known() {
		if value < after.value {
			if value <= before.value {
				return before.rank
			}
			part := math.Log(float64(value)/float64(before.value)) / math.Log(float64(after.value)/float64(before.value))
			return before.rank + part*(after.rank-before.rank)
		}
		before = after
	}
	return 1
}

// between is the value that lies a part of the way from one to the other, on a logarithmic scale.
func between(from, to time.Duration, part float64) time.Duration {
	if part >= 1 || from >= to {
		return to
	}
	return time.Duration(float64(from) * math.Pow(float64(to)/float64(from), max(part, 0)))
}
