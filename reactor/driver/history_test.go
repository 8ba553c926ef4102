package driver

import (
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

// sliceOf is what an instance tells of jobs that were so late.
func sliceOf(late []time.Duration) Slice {
	late = slices.Sorted(slices.Values(late))
	rank := func(share float64) time.Duration { return late[int(math.Ceil(share*float64(len(late))))-1] }
	return Slice{Jobs: int64(len(late)), P10: rank(.1), P50: rank(.5), P90: rank(.9), P99: rank(.99), Max: late[len(late)-1]}
}

func historyAt(until DBTime, list ...Slice) History {
	return History{Until: until, Slice: HistorySlice, Slices: list}
}

const at = DBTime(1_764_446_400_000_000)

// TestMergedPercentiles: those of several instances are near those of all their jobs together, and where the instances
// say the same, the result says the same.
func TestMergedPercentiles(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	lates := func(n int, median time.Duration, spread float64) (list []time.Duration) {
		for range n {
			list = append(list, time.Duration(float64(median)*math.Exp(spread*random.NormFloat64())))
		}
		return list
	}
	for name, parts := range map[string][][]time.Duration{
		"alike":           {lates(50_000, 200*time.Microsecond, .5), lates(50_000, 200*time.Microsecond, .5), lates(50_000, 200*time.Microsecond, .5)},
		"one is slow":     {lates(40_000, 200*time.Microsecond, .5), lates(10_000, 50*time.Millisecond, .5)},
		"one is slower":   {lates(20_000, 200*time.Microsecond, .4), lates(20_000, 400*time.Microsecond, .4)},
		"one has done it": {lates(20_000, 200*time.Microsecond, .4), lates(10, time.Second, .1)},
	} {
		var all []time.Duration
		var list []History
		for _, part := range parts {
			all = append(all, part...)
			list = append(list, historyAt(at, sliceOf(part)))
		}
		want, got := sliceOf(all), MergeHistories(list...).Slices[0]
		if got.Jobs != want.Jobs || got.Max != want.Max {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
		for _, p := range [][2]time.Duration{{got.P10, want.P10}, {got.P50, want.P50}, {got.P90, want.P90}, {got.P99, want.P99}} {
			if off := math.Abs(math.Log(float64(p[0]) / float64(p[1]))); off > math.Log(1.25) {
				t.Errorf("%s: %v instead of %v", name, p[0], p[1])
			}
		}
		t.Logf("%-16s %+v, in truth %+v", name, got, want)
	}
	one := sliceOf(lates(1000, time.Millisecond, 1))
	two := one
	two.Jobs *= 2
	if got := MergeHistories(historyAt(at, one), historyAt(at, one)).Slices[0]; got != two {
		t.Errorf("%+v, want %+v", got, two)
	}
}

// TestMergedTimes: slices of the same time are added, whatever an instance has told already, and how long it runs.
func TestMergedTimes(t *testing.T) {
	jobs := func(h History) (list []int64) {
		for _, s := range h.Slices {
			list = append(list, s.Jobs)
		}
		return list
	}
	s := func(n int64) Slice {
		return Slice{n, time.Millisecond, time.Millisecond, time.Millisecond, time.Millisecond, time.Second}
	}
	a := historyAt(at, s(1), s(2), Slice{}, s(4))
	for name, test := range map[string]struct {
		with  []History
		until DBTime
		want  []int64
	}{
		"alone":               {nil, at, []int64{1, 2, 0, 4}},
		"with none":           {[]History{{}}, at, []int64{1, 2, 0, 4}},
		"as long":             {[]History{historyAt(at, s(10), s(20), s(30), s(40))}, at, []int64{11, 22, 30, 44}},
		"began later":         {[]History{historyAt(at, s(40))}, at, []int64{1, 2, 0, 44}},
		"began before":        {[]History{historyAt(at, s(7), s(8), s(10), s(20), s(30), s(40))}, at, []int64{7, 8, 11, 22, 30, 44}},
		"has not told yet":    {[]History{historyAt(at.Add(-HistorySlice), s(10), s(20), s(30))}, at.Add(-HistorySlice), []int64{11, 22, 30}},
		"is silent":           {[]History{historyAt(at.Add(-2*HistorySlice), s(10), s(20))}, at, []int64{11, 22, 0, 4}},
		"was silent for long": {[]History{historyAt(at.Add(-time.Hour), s(10))}, at, []int64{1, 2, 0, 4}},
		"of another length":   {[]History{{Until: at, Slice: time.Second, Slices: []Slice{s(10)}}}, at, []int64{1, 2, 0, 4}},
	} {
		got := MergeHistories(append(test.with, a)...)
		if !slices.Equal(jobs(got), test.want) || got.Until != test.until || got.Slice != HistorySlice {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := MergeHistories(a); !reflect.DeepEqual(got, a) || a.PerSecond(s(5)) != .5 {
		t.Errorf("%+v", got)
	}
}
