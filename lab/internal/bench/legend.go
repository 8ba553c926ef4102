package bench

import (
	"fmt"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// The legend is on a band of its own, so that it covers no line. plot.Legend puts its entries below
// each other; here each entry is a legend by itself, and they are put beside each other.

// legendHeight is that of a row of entries.
const legendHeight = 5 * vg.Millimeter

// legendEntry is a line and its name.
type legendEntry struct {
	text string
	line *plotter.Line
}

// legendText is the name, with the multiples of the floor at p50 and p99.
func (r Result) legendText(m Measurement) string {
	to, floor := m.ToFloor, "floor"
	if r.FloorQoS1 != nil {
		to, floor = m.ToFloorQoS1, "QoS 1 floor"
	}
	if to == nil {
		return m.Name
	}
	return fmt.Sprintf("%s (p50 %.2f ×, p99 %.2f × the %s)", m.Name, to.P50.Median, to.P99.Median, floor)
}

func (e legendEntry) legend() plot.Legend {
	l := plot.NewLegend()
	l.Left, l.Top = true, true
	l.Add(e.text, e.line)
	return l
}

// width is what an entry takes, with the space after it.
func (e legendEntry) width() vg.Length {
	l := e.legend()
	return l.ThumbnailWidth + l.TextStyle.Rectangle(" "+e.text).Max.X + 8*vg.Millimeter
}

// legendRows distributes the entries over rows of a page.
func legendRows(entries []legendEntry, width vg.Length) (rows [][]legendEntry) {
	used := width
	for _, e := range entries {
		w := e.width()
		if used+w > width {
			rows, used = append(rows, nil), 0
		}
		rows[len(rows)-1] = append(rows[len(rows)-1], e)
		used += w
	}
	return rows
}

// drawLegend draws the rows at the top of a page.
func drawLegend(page draw.Canvas, rows [][]legendEntry) {
	for i, row := range rows {
		left := 2 * vg.Millimeter
		for _, e := range row {
			l := e.legend()
			l.Draw(draw.Crop(page, left, 0, 0, -vg.Length(i)*legendHeight-vg.Millimeter))
			left += e.width()
		}
	}
}
