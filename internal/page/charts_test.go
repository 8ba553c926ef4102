package page

import (
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
	"github.com/job-publisher/reactor/reactor/driver"
)

// TestHistoryFigures: the charts are of all instances together; a slice without jobs is neither late nor on time.
func TestHistoryFigures(t *testing.T) {
	t.Parallel()
	until := driver.DBTimeOf(time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC))
	history := func(jobs ...int64) *driver.Snapshot {
		h := driver.History{Until: until, Slice: driver.HistorySlice}
		for _, n := range jobs {
			s := driver.Slice{Jobs: n}
			if n > 0 {
				s.P50, s.P99, s.Max = time.Millisecond, 20*time.Millisecond, 300*time.Millisecond
			}
			h.Slices = append(h.Slices, s)
		}
		return &driver.Snapshot{History: h}
	}
	s := pgsource.Status{Instances: []pgsource.InstanceStatus{{Snapshot: history(100, 0, 50)}, {}, {Snapshot: history(100, 0, 70)}}}
	var a axes
	figures := a.historyFigures(historyOf(s))
	if len(figures) != 2 {
		t.Fatalf("%d figures", len(figures))
	}
	rate, late := string(figures[0].SVG), string(figures[1].SVG)
	for text, want := range map[string]string{rate: "12", late: "300 ms"} { // the last and the greatest are in the description
		if !strings.Contains(text, want) || strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
			t.Errorf("the chart lacks %q: %s", want, text)
		}
	}
	if again := a.historyFigures(historyOf(s)); string(again[1].SVG) != late {
		t.Error("the same values give another chart, which would be sent again")
	}
	if (&axes{}).historyFigures(historyOf(pgsource.Status{})) != nil {
		t.Error("there is a chart of nothing")
	}
	nothing := (&axes{}).historyFigures(historyOf(pgsource.Status{Instances: []pgsource.InstanceStatus{{Snapshot: history(0, 0)}}}))
	for _, f := range nothing {
		if strings.Contains(string(f.SVG), "NaN") || strings.Contains(string(f.SVG), "Inf") {
			t.Errorf("%s", f.SVG)
		}
	}
}

// TestShardFigure: each shard has its owner, also nobody; fixed shares have no picture.
func TestShardFigure(t *testing.T) {
	t.Parallel()
	owners := make([]int64, 64)
	owners[0], owners[1] = 7, 99
	s := pgsource.Status{Owners: owners, Instances: []pgsource.InstanceStatus{{ID: 5, Name: "a", Dynamic: true}, {ID: 7, Name: "<b>", Dynamic: true}}}
	f := shardFigure(s)
	if f == nil || !strings.Contains(string(f.SVG), "&lt;b&gt; · 1") || !strings.Contains(string(f.SVG), "no owner · 63") {
		t.Errorf("%+v", f)
	}
	s.Instances[0].Dynamic, s.Instances[1].Dynamic = false, false
	if shardFigure(s) != nil {
		t.Error("fixed shares have a picture")
	}
}

// TestFutureFigures: what is told is exact, about right, or a lower bound, and says which.
func TestFutureFigures(t *testing.T) {
	t.Parallel()
	for note, f := range map[string]pgsource.Future{
		"6 jobs":           {Step: time.Second, Jobs: []int64{1, 2, 3}, Sampled: 64, Cut: 3},
		"about 6 jobs":     {Step: time.Second, Jobs: []int64{1, 2, 3}, Sampled: 8, Cut: 3},
		"more than 3 jobs": {Step: time.Second, Jobs: []int64{1, 2, 0}, Sampled: 1, Cut: 2},
	} {
		var a axes
		if got := a.futureFigures([]pgsource.Future{f}); len(got) != 1 || got[0].Note != note || !strings.Contains(string(got[0].SVG), "<svg") {
			t.Errorf("%+v, want %q", got, note)
		}
	}
}

// TestWheelFigure: the hand is at the second of the database.
func TestWheelFigure(t *testing.T) {
	t.Parallel()
	var a axes
	f := a.wheelFigure(reactor.Ahead{At: driver.DBTimeOf(time.Date(2026, 11, 29, 12, 0, 30, 0, time.UTC)), Seconds: []int64{5, 0, 7}, Overdue: 2})
	if f == nil || !strings.Contains(string(f.SVG), "12") || !strings.Contains(f.Note, "2 jobs overdue") {
		t.Errorf("%+v", f)
	}
	if a.wheelFigure(reactor.Ahead{}) != nil {
		t.Error("there is a wheel of nothing")
	}
}

// TestLeaving: an instance whose row goes is told of, until it is back or that is long ago, and no more than some are.
func TestLeaving(t *testing.T) {
	t.Parallel()
	var l leaving
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	see := func(after time.Duration, names ...string) (gone string) {
		at = at.Add(after)
		s := pgsource.Status{At: driver.DBTimeOf(at)}
		for _, name := range names {
			s.Instances = append(s.Instances, pgsource.InstanceStatus{Name: name})
		}
		for _, g := range l.add(s) {
			gone += g.Name + " "
		}
		return gone
	}
	for i, step := range []struct {
		after time.Duration
		names []string
		want  string
	}{
		{0, []string{"a", "b"}, ""},
		{time.Second, []string{"a"}, "b "},
		{time.Second, []string{"a", "b"}, ""},
		{time.Second, []string{"b"}, "a "},
		{time.Minute, []string{}, "a b "},
		{goneFor - time.Minute, []string{"c", "d", "e", "f", "g", "h", "i"}, "b "},
		{time.Second, nil, "e f g h i "},
		{goneFor, nil, ""},
	} {
		if got := see(step.after, step.names...); got != step.want {
			t.Errorf("step %d: %q are gone, want %q", i, got, step.want)
		}
	}
}
