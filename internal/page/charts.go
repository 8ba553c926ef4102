package page

import (
	"fmt"
	"html/template"
	"math"
	"slices"

	"github.com/job-publisher/reactor/internal/chart"
	"github.com/job-publisher/reactor/internal/words"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
	"github.com/job-publisher/reactor/reactor/driver"
)

// figure is a chart. Its drawing comes from internal/chart, which escapes every text.
type figure struct {
	Title string
	SVG   template.HTML
	Note  string
	Link  string // the jobs that it counts; "": there is no list of them
}

// axes are the bounds of charts that are drawn again and again.
type axes struct {
	rate, late, wheel chart.Steady
	future            [3]chart.Steady
}

// historyOf is what all instances have published in the last minutes.
func historyOf(s pgsource.Status) driver.History {
	var list []driver.History
	for _, i := range s.Instances {
		if i.Snapshot != nil {
			list = append(list, i.Snapshot.History)
		}
	}
	return driver.MergeHistories(list...)
}

// historyFigures are the last minutes: how many jobs, and how late they were.
func (a *axes) historyFigures(h driver.History) []figure {
	if len(h.Slices) == 0 {
		return nil
	}
	var rate, p50, p99, most []chart.Point
	fastest, least, latest := 1.0, math.Inf(1), 0.001
	for i, s := range h.Slices {
		x := -float64(len(h.Slices)-1-i) * h.Slice.Seconds()
		rate = append(rate, chart.Point{X: x, Y: h.PerSecond(s)})
		fastest = max(fastest, h.PerSecond(s))
		point := func(line *[]chart.Point, seconds float64) {
			if s.Jobs == 0 {
				seconds = math.NaN() // nothing was late, nor on time
			} else if seconds = max(seconds, 1e-6); true {
				least, latest = min(least, seconds), max(latest, seconds)
			}
			*line = append(*line, chart.Point{X: x, Y: seconds})
		}
		point(&p50, s.P50.Seconds())
		point(&p99, s.P99.Seconds())
		point(&most, s.Max.Seconds())
	}
	ago := chart.Axis{Unit: chart.Relative, Min: -(driver.HistorySlices - 1) * driver.HistorySlice.Seconds(), Max: 0}
	return []figure{
		{Title: "Published per second", SVG: template.HTML(chart.Lines{
			ID: "rate-chart", Title: "Published per second", X: ago, Y: a.rate.Fit(chart.Axis{Label: "jobs / s"}, 0, fastest),
			Series: []chart.Series{{Name: "jobs / s", Points: rate}}, NoLegend: true,
		}.SVG())},
		{Title: "Lateness", SVG: template.HTML(chart.Lines{
			ID: "late-chart", Title: "Lateness", X: ago, Y: a.late.Fit(chart.Axis{Unit: chart.Duration, Log: true}, min(least, latest), latest),
			Series: []chart.Series{{Name: "p50", Points: p50}, {Name: "p99", Points: p99}, {Name: "most", Points: most}},
		}.SVG())},
	}
}

// shardFigure shows who owns the shards; nil if no instance takes part in sharing them.
func shardFigure(s pgsource.Status) *figure {
	if len(s.Owners) == 0 || !slices.ContainsFunc(s.Instances, func(i pgsource.InstanceStatus) bool { return i.Dynamic }) {
		return nil
	}
	strip := chart.Strip{ID: "shard-strip", Title: "Shards by owner"}
	for _, i := range s.Instances {
		strip.Owners = append(strip.Owners, i.Name)
	}
	for _, owner := range s.Owners {
		strip.Cells = append(strip.Cells, slices.IndexFunc(s.Instances, func(i pgsource.InstanceStatus) bool { return i.ID == owner }))
	}
	return &figure{Title: "Shards", SVG: template.HTML(strip.SVG())}
}

// futureNames are those of futureSteps.
var futureNames = []string{"In the next minute", "In the next hour", "In the next day"}

// futureLinks are the lists of the same jobs.
var futureLinks = []string{listMinute, listHour, listDay}

// futureFigures are what falls due in the next minute, hour and day.
func (a *axes) futureFigures(list []pgsource.Future) (figures []figure) {
	for i, f := range list {
		values, most := make([]float64, len(f.Jobs)), 1.0
		for n, jobs := range f.Jobs {
			values[n] = float64(jobs)
			most = max(most, values[n])
		}
		note := words.Jobs(f.Total())
		switch {
		case f.Cut < len(f.Jobs):
			note = "more than " + note
		case !f.Exact():
			note = "about " + note
		}
		step := f.Step.Seconds()
		figures = append(figures, figure{futureNames[i], template.HTML(chart.Bars{
			ID: fmt.Sprintf("future-%d", i), Title: futureNames[i], Desc: note + ".", Height: 90, X: chart.Axis{Unit: chart.Relative}, Step: step, Values: values, Y: a.future[i].Fit(chart.Axis{}, 0, most),
		}.SVG()), note, futureLinks[i]})
	}
	return figures
}

// wheelFigure is what waits in the memory of an instance, by the second in which it is due.
func (a *axes) wheelFigure(ahead reactor.Ahead) *figure {
	if len(ahead.Seconds) == 0 {
		return nil
	}
	w := chart.Wheel{ID: "wheel", Title: "The next minute in memory", Now: ahead.At.Time().Second(), Below: "in memory"}
	most := 1.0
	for _, n := range ahead.Seconds[:min(60, len(ahead.Seconds))] {
		w.Counts = append(w.Counts, float64(n))
		most = max(most, float64(n))
	}
	w.Max = a.wheel.Fit(chart.Axis{}, 0, most).Max
	note := "nothing is overdue in memory"
	if ahead.Overdue > 0 {
		note = words.Jobs(ahead.Overdue) + " overdue, or on offer to the lanes"
	}
	return &figure{Title: "The next minute", SVG: template.HTML(w.SVG()), Note: note}
}
