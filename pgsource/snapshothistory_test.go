package pgsource

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// TestHistoryInASnapshot: it is read as it was written, to half a hundredth, and is at most some hundred bytes.
func TestHistoryInASnapshot(t *testing.T) {
	h := driver.History{Until: 1_764_446_400_000_000, Slice: driver.HistorySlice}
	for i := range driver.HistorySlices {
		s := driver.Slice{Jobs: int64(i) * 50_000}
		if i > 0 {
			late := time.Duration(i) * 37 * time.Microsecond
			s.P10, s.P50, s.P90, s.P99, s.Max = late, 2*late, 10*late, 100*late, 30_000*late
		}
		h.Slices = append(h.Slices, s)
	}
	text, none := encodeSnapshot(driver.Snapshot{History: h}), encodeSnapshot(driver.Snapshot{})
	if n := len(text) - len(none); n > 500 {
		t.Errorf("the history has %d bytes", n)
	} else {
		t.Logf("%d bytes, %d of them of the history", len(text), n)
	}
	got := decodeSnapshot(text).History
	if got.Until != h.Until || got.Slice != h.Slice || len(got.Slices) != len(h.Slices) {
		t.Fatalf("%+v", got)
	}
	for i, want := range h.Slices {
		s := got.Slices[i]
		if s.Jobs != want.Jobs {
			t.Errorf("slice %d: %d jobs, want %d", i, s.Jobs, want.Jobs)
		}
		for _, late := range [][2]time.Duration{{s.P10, want.P10}, {s.P50, want.P50}, {s.P90, want.P90}, {s.P99, want.P99}, {s.Max, want.Max}} {
			if off := float64(late[0]-late[1]) / float64(max(late[1], 1)); math.Abs(off) > 0.01 {
				t.Errorf("slice %d: %v instead of %v", i, late[0], late[1])
			}
		}
	}
	if s := decodeSnapshot(none); len(s.History.Slices) != 0 { // of a program that keeps none
		t.Errorf("%+v", s.History)
	}
	// Where the problems take the room, the latest slices stay.
	long := strings.Repeat("日", 40)
	text = encodeSnapshot(driver.Snapshot{Problems: []string{long, long, long, long, long}, Published: math.MaxInt64, Pending: math.MaxInt64, OldestDue: math.MaxInt64, History: h})
	cut := decodeSnapshot(text).History.Slices
	if len(text) > mostSnapshot || len(cut) == 0 || cut[len(cut)-1] != got.Slices[len(got.Slices)-1] {
		t.Errorf("%d bytes: %+v", len(text), cut)
	}
}

// FuzzHistory: whatever another program, or somebody by hand, has written is no history, or one.
func FuzzHistory(f *testing.F) {
	f.Add(int64(10), int64(10_000_000), "..0001000000ABAB..")
	f.Add(int64(math.MinInt64), int64(math.MaxInt64), "000")
	f.Add(int64(0), int64(1), "日日日日日日日日日日日日日")
	f.Fuzz(func(t *testing.T, until, slice int64, text string) {
		h := (&historyJSON{until, slice, text}).decode()
		driver.MergeHistories(h, h, driver.History{Until: h.Until, Slice: driver.HistorySlice, Slices: h.Slices})
	})
}
