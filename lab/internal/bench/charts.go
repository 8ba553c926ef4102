package bench

import (
	"fmt"
	"slices"
	"strings"

	"github.com/job-publisher/reactor/internal/chart"
)

// A measurement has the same colour in all charts with lines: that of its place in Result.all.

// percentileAxis has a place for each of Percents, so that the rare ones have room.
func percentileAxis() chart.Axis {
	a := chart.Axis{Label: "percentile", Max: float64(len(Percents) - 1)}
	for i, p := range Percents {
		tick := chart.Tick{At: float64(i)}
		switch p {
		case 1, 10, 50, 90, 99, 99.9:
			tick.Label = fmt.Sprint(p)
		}
		a.Ticks = append(a.Ticks, tick)
	}
	return a
}

// latenessChart is the distribution of lateness, in seconds after fire_at.
func (r Result) latenessChart() chart.Lines {
	c := chart.Lines{ID: "lateness", Title: "Lateness", X: percentileAxis(), Y: chart.Axis{Label: "after fire_at", Unit: chart.Duration, Log: true}}
	for _, m := range r.all() {
		s := chart.Series{Name: m.Name}
		for i, ms := range m.Distribution {
			s.Points = append(s.Points, chart.Point{X: float64(i), Y: ms / 1000})
		}
		c.Series = append(c.Series, s)
	}
	return c
}

// ratioChart is lateness as multiples of a floor: of that of QoS 1, if it was measured, since it is
// the lower one. It reports whether there is one.
func (r Result) ratioChart() (c chart.Lines, ok bool) {
	floor, name := r.FloorQoS1, "the floor of QoS 1"
	if floor == nil {
		floor, name = r.Floor, "the floor"
	}
	if floor == nil {
		return c, false
	}
	c = chart.Lines{ID: "multiples", Title: "Lateness / " + name, X: percentileAxis(), Y: chart.Axis{Label: "multiple of " + name, Log: true}}
	for _, m := range r.all() {
		s := chart.Series{Name: m.Name}
		for i := range min(len(m.Distribution), len(floor.Distribution)) {
			s.Points = append(s.Points, chart.Point{X: float64(i), Y: ratio(m.Distribution[i], floor.Distribution[i])})
		}
		c.Series = append(c.Series, s)
	}
	return c, true
}

// throughputChart is the messages per second over the time since the first one.
func (r Result) throughputChart() chart.Lines {
	c := chart.Lines{ID: "throughput", Title: "Throughput", X: chart.Axis{Label: "since the first message", Unit: chart.Duration}, Y: chart.Axis{Label: "messages / s"}}
	longest := 0
	for _, m := range r.all() {
		longest = max(longest, len(m.Arrivals))
	}
	const points = 150
	each := max(1, (longest+points-1)/points) // tenths of a second a point
	for _, m := range r.all() {
		s := chart.Series{Name: m.Name}
		for from := 0; from < len(m.Arrivals); from += each {
			piece := m.Arrivals[from:min(from+each, len(m.Arrivals))]
			count := 0
			for _, n := range piece {
				count += n
			}
			s.Points = append(s.Points, chart.Point{X: float64(from) / 10, Y: float64(count) * 10 / float64(len(piece))})
		}
		c.Series = append(c.Series, s)
	}
	return c
}

// slicesChart is lateness over the time of the load. It reports whether that was measured.
func (r Result) slicesChart() (c chart.Lines, ok bool) {
	c = chart.Lines{ID: "slices", Title: "Lateness over time", X: chart.Axis{Label: "since the first fire_at", Unit: chart.Duration}, Y: chart.Axis{Label: "after fire_at", Unit: chart.Duration, Log: true}}
	for _, m := range r.all() {
		if len(m.Slices) == 0 {
			continue
		}
		p50, p99 := chart.Series{Name: m.Name + ", p50"}, chart.Series{Name: m.Name + ", p99"}
		for _, s := range m.Slices {
			middle := (s.FromSeconds + s.ToSeconds) / 2
			p50.Points = append(p50.Points, chart.Point{X: middle, Y: s.P50 / 1000})
			p99.Points = append(p99.Points, chart.Point{X: middle, Y: s.P99 / 1000})
		}
		c.Series = append(c.Series, p50, p99)
	}
	return c, len(c.Series) > 0
}

// claimCharts are the sizes of claims, one for each measurement of instances that said theirs.
func (r Result) claimCharts() (charts []chart.Bars) {
	for _, m := range r.all() {
		if m.Internals == nil || len(m.Internals.ClaimSizes) == 0 {
			continue
		}
		c := chart.Bars{
			ID: fmt.Sprint("claims-", len(charts)), Title: "Jobs of a claim: " + m.Name, Height: 90,
			X: chart.Axis{Label: "jobs"}, Y: chart.Axis{Label: "claims"},
		}
		least := 1
		for _, s := range m.Internals.ClaimSizes {
			name := fmt.Sprint(least)
			switch {
			case s.Most == 0: // the last range has no end
				name = fmt.Sprint("≥ ", least)
			case s.Most > least:
				name = fmt.Sprint(least, "–", s.Most)
			}
			least = s.Most + 1
			if s.Claims > 0 || len(c.Values) > 0 { // not the empty ranges at the begin
				c.Names, c.Values = append(c.Names, name), append(c.Values, float64(s.Claims))
			}
		}
		for n := len(c.Values); n > 0 && c.Values[n-1] == 0; n-- { // nor those at the end
			c.Names, c.Values = c.Names[:n-1], c.Values[:n-1]
		}
		charts = append(charts, c)
	}
	return charts
}

// servers are the processes that all measurements have; what else runs is what publishes.
var servers = []string{"subscriber", "postgres", "mosquitto"}

// cpuChart is the CPU time of the processes: for each job, or while idle the share of a core.
func (r Result) cpuChart() chart.Rows {
	c := chart.Rows{ID: "cpu", Title: "CPU time", X: chart.Axis{Label: "µs a job"}, Parts: append(slices.Clone(servers), "publisher")}
	idle := r.Reactor.Jobs == 0
	if idle {
		c.X = chart.Axis{Label: "of a core", Unit: chart.Share}
	}
	for _, m := range r.all() {
		values := make([]float64, len(c.Parts))
		for _, u := range m.Usage {
			part := slices.Index(servers, u.Name)
			if part < 0 {
				part = len(servers)
			}
			if idle {
				values[part] += ratio(u.CPUSeconds, m.Seconds)
			} else {
				values[part] += 1e6 * ratio(u.CPUSeconds, float64(m.Jobs))
			}
		}
		c.Rows = append(c.Rows, chart.Row{Name: m.Name, Values: values})
	}
	return c
}

// loadText says in a sentence what the jobs were.
func (r Result) loadText() string {
	l := r.Load
	text := fmt.Sprint(l.Jobs, " jobs with ", l.PayloadBytes, " bytes, ")
	switch {
	case l.Idle > 0:
		return fmt.Sprint("no jobs, for ", l.Idle)
	case l.Rate > 0:
		text += fmt.Sprint("evenly at ", l.Rate, " a second")
	case l.Spread > 0:
		text += fmt.Sprint("at random times within ", l.Spread)
	case l.SameInstant:
		text += "all at the same instant"
	default:
		text += "all due at the start"
	}
	return text
}

// machineText says where it was measured.
func (r Result) machineText() string {
	postgres, _, _ := strings.Cut(r.PostgreSQL, " (")
	return fmt.Sprintf("%d CPUs, %s, PostgreSQL %s, fsync %s", r.CPUs, r.Go, strings.TrimPrefix(postgres, "PostgreSQL "), r.Fsync)
}
