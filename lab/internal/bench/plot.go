package bench

import (
	"fmt"
	"image/color"
	"io"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// palette can be distinguished by people who do not see the difference between red and green
// (Okabe and Ito, 2008).
var palette = []color.Color{
	color.RGBA{0xD5, 0x5E, 0x00, 0xFF},
	color.RGBA{0x00, 0x72, 0xB2, 0xFF},
	color.RGBA{0x00, 0x9E, 0x73, 0xFF},
	color.RGBA{0xCC, 0x79, 0xA7, 0xFF},
	color.RGBA{0x00, 0x00, 0x00, 0xFF},
	color.RGBA{0xE6, 0x9F, 0x00, 0xFF},
	color.RGBA{0x56, 0xB4, 0xE9, 0xFF},
}

// Plot writes an SVG: the distribution of lateness, the same as a multiple of the floor's if that
// was measured, and throughput over time. There is one legend, above all of them.
func (r Result) Plot(out io.Writer) error {
	lateness, throughput := plot.New(), plot.New()
	lateness.Title.Text, lateness.X.Label.Text, lateness.Y.Label.Text = "Lateness", "percentile", "ms after fire_at"
	lateness.Y.Scale, lateness.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	lateness.X.Tick.Marker = percentileTicks{}
	throughput.Title.Text, throughput.X.Label.Text, throughput.Y.Label.Text = "Throughput", "seconds", "messages / s"
	throughput.Y.Min = 0
	plots := []*plot.Plot{lateness, throughput}
	floor, relative := r.ratioPlot()
	if floor != nil {
		plots = []*plot.Plot{lateness, relative, throughput}
	}
	for _, p := range plots {
		p.Add(plotter.NewGrid())
	}

	var legend []legendEntry
	for i, m := range r.all() {
		points := make(plotter.XYs, len(m.Distribution))
		for n, ms := range m.Distribution {
			points[n] = plotter.XY{X: float64(n), Y: max(ms, 0.01)} // a logarithmic scale has no 0
		}
		line, err := addLine(lateness, m.Name, points, i)
		if err != nil {
			return err
		}
		if line != nil {
			legend = append(legend, legendEntry{r.legendText(m), line})
		}
		if floor != nil {
			multiples := make(plotter.XYs, len(m.Distribution))
			for n, ms := range m.Distribution {
				multiples[n] = plotter.XY{X: float64(n), Y: max(ratio(ms, floor.Distribution[n]), 0.01)}
			}
			if _, err := addLine(relative, m.Name, multiples, i); err != nil {
				return err
			}
		}
		series := make(plotter.XYs, len(m.Arrivals))
		for n, count := range m.Arrivals {
			series[n] = plotter.XY{X: float64(n) / 10, Y: float64(count) * 10}
		}
		if _, err := addLine(throughput, m.Name, series, i); err != nil {
			return err
		}
	}
	const plotWidth, plotHeight = 4.5 * vg.Inch, 3.5 * vg.Inch
	width := plotWidth * vg.Length(len(plots))
	rows := legendRows(legend, width)
	top := legendHeight*vg.Length(len(rows)) + 2*vg.Millimeter
	canvas := vgsvg.New(width, plotHeight+top)
	page := draw.New(canvas)
	tiles := draw.Tiles{Rows: 1, Cols: len(plots), PadX: vg.Centimeter, PadTop: vg.Millimeter, PadRight: 3 * vg.Millimeter}
	below := draw.Crop(page, 0, 0, 0, -top)
	for i, p := range plots {
		p.Draw(tiles.At(below, i, 0))
	}
	drawLegend(page, rows)
	if _, err := canvas.WriteTo(out); err != nil {
		return fmt.Errorf("write the plot: %w", err)
	}
	return nil
}

// ratioPlot is that of multiples of a floor: that of QoS 1, if it was measured, since it is the
// lower one.
func (r Result) ratioPlot() (floor *Measurement, p *plot.Plot) {
	name := "the floor"
	switch {
	case r.FloorQoS1 != nil:
		floor, name = r.FloorQoS1, "the floor of QoS 1"
	case r.Floor != nil:
		floor = r.Floor
	default:
		return nil, nil
	}
	p = plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = "Lateness / "+name, "percentile", "multiple of "+name
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, multipleTicks{}
	p.X.Tick.Marker = percentileTicks{}
	return floor, p
}

// addLine draws a line, or none if there are no points.
func addLine(p *plot.Plot, name string, points plotter.XYs, i int) (*plotter.Line, error) {
	if len(points) == 0 {
		return nil, nil
	}
	line, err := plotter.NewLine(points)
	if err != nil {
		return nil, fmt.Errorf("plot %s: %w", name, err)
	}
	line.Color, line.Width = palette[i%len(palette)], vg.Points(1.5)
	if i >= len(palette) {
		line.Dashes = []vg.Length{vg.Points(4), vg.Points(2)}
	}
	p.Add(line)
	return line, nil
}

// multipleTicks are at 1, 1.5, 2, 3, 5, 7 and so on.
type multipleTicks struct{}

func (multipleTicks) Ticks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	for power := 0.01; power <= high; power *= 10 {
		for _, step := range []float64{1, 1.5, 2, 3, 5, 7} {
			if value := power * step; value >= low && value <= high {
				ticks = append(ticks, plot.Tick{Value: value, Label: fmt.Sprintf("%.3g", value)})
			}
		}
	}
	return ticks
}

// percentileTicks makes a tick for each of Percents.
type percentileTicks struct{}

func (percentileTicks) Ticks(_, _ float64) []plot.Tick {
	var ticks []plot.Tick
	for i, p := range Percents {
		tick := plot.Tick{Value: float64(i)}
		switch p {
		case 1, 10, 50, 90, 99, 99.9:
			tick.Label = fmt.Sprint(p)
		}
		ticks = append(ticks, tick)
	}
	return ticks
}
