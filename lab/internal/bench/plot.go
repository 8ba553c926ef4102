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
}

// Plot writes an SVG: the distribution of lateness, and throughput over time.
func (r Result) Plot(out io.Writer) error {
	lateness, throughput := plot.New(), plot.New()
	lateness.Title.Text, lateness.X.Label.Text, lateness.Y.Label.Text = "Lateness", "percentile", "ms after fire_at"
	lateness.Y.Scale, lateness.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	lateness.X.Tick.Marker = percentileTicks{}
	throughput.Title.Text, throughput.X.Label.Text, throughput.Y.Label.Text = "Throughput", "seconds", "messages / s"
	throughput.Y.Min = 0
	for _, p := range []*plot.Plot{lateness, throughput} {
		p.Add(plotter.NewGrid())
		p.Legend.Top = true
	}
	lateness.Legend.Left = true

	for i, m := range r.all() {
		points := make(plotter.XYs, len(m.Distribution))
		for n, ms := range m.Distribution {
			points[n] = plotter.XY{X: float64(n), Y: max(ms, 0.01)} // a logarithmic scale has no 0
		}
		if err := addLine(lateness, m.Name, points, i); err != nil {
			return err
		}
		series := make(plotter.XYs, len(m.Arrivals))
		for n, count := range m.Arrivals {
			series[n] = plotter.XY{X: float64(n) / 10, Y: float64(count) * 10}
		}
		if err := addLine(throughput, m.Name, series, i); err != nil {
			return err
		}
	}
	throughput.Y.Max *= 1.25 // room for the legend
	const width, height = 9 * vg.Inch, 3.5 * vg.Inch
	canvas := vgsvg.New(width, height)
	tiles := draw.Tiles{Rows: 1, Cols: 2, PadX: vg.Centimeter, PadTop: vg.Millimeter, PadRight: 3 * vg.Millimeter}
	page := draw.New(canvas)
	for i, p := range []*plot.Plot{lateness, throughput} {
		p.Draw(tiles.At(page, i, 0))
	}
	if _, err := canvas.WriteTo(out); err != nil {
		return fmt.Errorf("write the plot: %w", err)
	}
	return nil
}

func addLine(p *plot.Plot, name string, points plotter.XYs, i int) error {
	if len(points) == 0 {
		return nil
	}
	line, err := plotter.NewLine(points)
	if err != nil {
		return fmt.Errorf("plot %s: %w", name, err)
	}
	line.Color, line.Width = palette[i%len(palette)], vg.Points(1.5)
	p.Add(line)
	p.Legend.Add(name, line)
	return nil
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
