package page

import (
	"math"
	"slices"

	"github.com/job-publisher/reactor/internal/chart"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// figure is a chart. Its drawing comes from internal/chart, which escapes every text.
type figure struct {
	Title string
	SVG   safeHTML
}

// axes are the bounds of charts that are drawn again and again.
type axes struct{ rate, late chart.Steady }

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
		{"Published per second", safeHTML(chart.Lines{
			ID: "rate-chart", Title: "Published per second", X: ago, Y: a.rate.Fit(chart.Axis{Label: "jobs / s"}, 0, fastest),
			Series: []chart.Series{{Name: "jobs / s", Points: rate}}, NoLegend: true,
		}.SVG())},
		{"Lateness", safeHTML(chart.Lines{
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
	return &figure{"Shards", safeHTML(strip.SVG())}
}
