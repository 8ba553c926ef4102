package chart

import (
	"math"
	"strings"
)

// Rows are named rows below each other, each a bar of parts.
type Rows struct {
	// ID, Title, Desc, Width and Heading are as those of Lines. Desc defaults to all values.
	ID, Title, Desc string
	Width           float64
	Heading         bool

	X Axis
	// Parts are the names of the parts, for the legend. One part has no legend.
	Parts []string
	Rows  []Row
}

// Row is a bar.
type Row struct {
	Name   string
	Values []float64 // of each part; not negative
}

// SVG returns the chart as an svg element.
func (r Rows) SVG() string { return drawn(r).svg("") }

func (r Rows) frame() frame { return frame{r.ID, r.Title, r.Desc, r.Width, r.Heading} }

func (r Rows) summary() string {
	var b strings.Builder
	for _, row := range r.Rows {
		b.WriteString(row.Name + ": " + r.X.Unit.Format(row.sum()))
		for i, v := range row.Values {
			if i < len(r.Parts) && len(r.Parts) > 1 && v > 0 {
				b.WriteString(", " + r.Parts[i] + " " + r.X.Unit.Format(v))
			}
		}
		b.WriteString(". ")
	}
	return withLabel(r.X.Label, strings.TrimSpace(b.String()))
}

func (r Row) sum() (sum float64) {
	for _, v := range r.Values {
		sum += part(v)
	}
	return sum
}

// part is a value that can be stacked.
func part(v float64) float64 {
	if !usable(v) {
		return 0
	}
	return clamp(v, 0, largest)
}

func (r Rows) draw(c *canvas, width float64) float64 {
	y := 0.0
	if len(r.Parts) > 1 {
		entries := make([]entry, len(r.Parts))
		for i, name := range r.Parts {
			entries[i] = entry{class: classes(i), name: name}
		}
		y = c.drawLegend(entries, 0, width)
	}
	var across extent
	for _, row := range r.Rows {
		across.add(row.sum(), false)
	}
	const (
		valueWidth = 64 // for the sum beside the bar
		rowHeight  = 36
	)
	x := r.X
	x.Log = false
	low, high := x.bounds(across, yTicks)
	s := scale{low: low, high: high, from: 0, to: width - valueWidth}
	for _, row := range r.Rows {
		c.text("n", "start", 0, y+12, clip(row.Name, width))
		at, sum := s.at(0), 0.0
		for i, v := range row.Values {
			if part(v) == 0 {
				continue
			}
			sum += part(v)
			end := s.at(sum)
			hint := row.Name + ": " + r.X.Unit.Format(v)
			if i < len(r.Parts) && r.Parts[i] != "" {
				hint = row.Name + ", " + r.Parts[i] + ": " + r.X.Unit.Format(v)
			}
			// A line in the colour of the ground is between two parts.
			c.rect("b "+classes(i), at, y+16, math.Max(end-at-1, 0.5), 13, hint)
			at = end
		}
		c.text("k", "start", at+5, y+27, clip(r.X.Unit.Format(sum), valueWidth-6))
		y += rowHeight
	}
	if r.X.Label != "" {
		c.text("n", "start", 0, y+12, clip(r.X.Label, width))
		y += 17
	}
	if len(r.Rows) == 0 {
		c.text("n", "start", 0, y+12, noData)
		y += legendRow
	}
	return y
}
