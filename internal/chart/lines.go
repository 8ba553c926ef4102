package chart

import (
	"math"
	"strings"
)

// Lines are series over a common horizontal axis.
type Lines struct {
	// ID is that of the element, unique in a page; Title names the chart; Desc describes it
	// and defaults to the last, least and greatest value of each series.
	ID, Title, Desc string
	// Width is that of the viewBox and defaults to 320, for a text of 12. Height is that of the plot and defaults to 130.
	Width, Height float64
	// Heading writes the title above the chart, for where nothing else does.
	Heading bool

	X, Y   Axis
	Series []Series
	// Gap is the largest horizontal distance of points that are connected; 0 connects all.
	Gap float64
	// NoLegend leaves the legend out, for a chart beside another one with the same series.
	NoLegend bool
}

// Series is a line.
type Series struct {
	Name string
	// Points are in the order of X. A Y that is not finite is a missing value, and interrupts the line.
	Points []Point
}

// Point is a point of a line.
type Point struct{ X, Y float64 }

// SVG returns the chart as an svg element.
func (l Lines) SVG() string { return drawn(l).svg("") }

func (l Lines) frame() frame { return frame{l.ID, l.Title, l.Desc, l.Width, l.Heading} }

func (l Lines) summary() string {
	var b strings.Builder
	for _, s := range l.Series {
		var e extent
		latest := math.NaN()
		for _, p := range s.Points {
			if e.add(p.Y, false); usable(p.Y) {
				latest = p.Y
			}
		}
		b.WriteString(s.Name)
		if !e.any {
			b.WriteString(": no values. ")
			continue
		}
		b.WriteString(": last " + l.Y.Unit.Format(latest) + ", least " + l.Y.Unit.Format(e.low) + ", greatest " + l.Y.Unit.Format(e.high) + ". ")
	}
	return withLabel(l.Y.Label, strings.TrimSpace(b.String()))
}

// withLabel says first what the values are.
func withLabel(label, text string) string {
	if label == "" || text == "" {
		return text
	}
	return label + ". " + text
}

func (l Lines) draw(c *canvas, width float64) float64 {
	top := 0.0
	if !l.NoLegend {
		entries := make([]entry, len(l.Series))
		for i, s := range l.Series {
			entries[i] = entry{class: classes(i), line: true, name: s.Name}
		}
		top = c.drawLegend(entries, 0, width)
	}
	var across, up extent
	for _, s := range l.Series {
		for _, p := range s.Points {
			across.add(p.X, l.X.Log)
			up.add(p.Y, l.Y.Log)
		}
	}
	x := l.X
	if !x.given() {
		if x.Min, x.Max = across.low, across.high; !x.given() {
			x.Min, x.Max = l.X.bounds(across, yTicks)
		}
	}
	x.Min, x.Max = clamp(x.Min, -largest, largest), clamp(x.Max, -largest, largest)
	p := c.drawAxes(x, l.Y, up, width, top, plotHeight(l.Height))
	// The first series is the most important one: it is drawn last, above the others.
	for i := len(l.Series) - 1; i >= 0; i-- {
		c.path("l "+classes(i), l.commands(l.Series[i].Points, p), "")
	}
	if !up.any {
		c.text("n", "middle", (p.x.from+p.x.to)/2, (p.y.from+p.y.to)/2+4, noData)
	}
	return p.bottom
}

// commands returns the path of a line. A point alone between two gaps is a dot: a line of no length, with round ends.
func (l Lines) commands(points []Point, p plot) string {
	var b strings.Builder
	drawing, last := false, 0.0
	for _, point := range points {
		if !usable(point.X) || !usable(point.Y) {
			drawing = false
			continue
		}
		command := "L"
		if !drawing || l.Gap > 0 && point.X-last > l.Gap {
			command = "M"
		}
		at := number(p.x.at(point.X)) + " " + number(p.y.at(point.Y))
		b.WriteString(command + at)
		if command == "M" {
			b.WriteString("h0")
		}
		drawing, last = true, point.X
	}
	return b.String()
}
