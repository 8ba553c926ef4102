package bench

import (
	"fmt"
	"io"

	"github.com/job-publisher/reactor/internal/chart"
)

// Plot writes an SVG: the distribution of lateness, the same as a multiple of the floor's if that
// was measured, and throughput over time. There is one legend, above all of them.
func (r Result) Plot(out io.Writer) error {
	var names []string
	for _, m := range r.all() {
		names = append(names, r.legendText(m))
	}
	plots := []chart.Lines{r.latenessChart()}
	if c, ok := r.ratioChart(); ok {
		plots = append(plots, c)
	}
	plots = append(plots, r.throughputChart())
	charts := make([]chart.Chart, len(plots))
	for i, c := range plots {
		c.Heading, c.NoLegend, c.Height = true, true, 220
		charts[i] = c
	}
	if _, err := io.WriteString(out, chart.Document(len(charts), names, charts...)); err != nil {
		return fmt.Errorf("write the plot: %w", err)
	}
	return nil
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
