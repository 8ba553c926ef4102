package bench

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Table writes the result for a person.
func (r Result) Table(out io.Writer) error {
	list := r.all()
	write := []func(io.Writer, []Measurement) error{measuresTable, r.comparison, slicesTable, usageTable}
	if r.Reactor.Jobs == 0 { // idle
		write = []func(io.Writer, []Measurement) error{usageTable}
		for _, m := range list {
			fmt.Fprintf(out, "\n%s, idle for %.0f s: the database got %.2f statements per second, over %d connections\n",
				m.Name, m.Seconds, m.StatementsPerSecond, m.Connections)
		}
		fmt.Fprintln(out)
	}
	for _, w := range write {
		if err := w(out, list); err != nil {
			return err
		}
	}
	return nil
}

// measuresTable has a column for each measurement, and one for the jobs beside it.
func measuresTable(out io.Writer, list []Measurement) error {
	var columns []Measurement
	for _, m := range list {
		columns = append(columns, m)
		if m.Beside != nil {
			beside := *m.Beside
			beside.Name = "beside " + m.Name
			columns = append(columns, beside)
		}
	}
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	// row writes a row, unless all its cells are empty.
	row := func(name string, cell func(Measurement) string) {
		cells, empty := []string{name}, true
		for _, m := range columns {
			text := cell(m)
			cells, empty = append(cells, text), empty && text == ""
		}
		if !empty {
			fmt.Fprintln(t, strings.Join(cells, "\t")+"\t")
		}
	}
	number := func(name, format string, value func(Measurement) float64) {
		row(name, func(m Measurement) string { return fmt.Sprintf(format, value(m)) })
	}
	some := func(name, format string, value func(Measurement) float64) {
		row(name, func(m Measurement) string {
			if v := value(m); v > 0 {
				return fmt.Sprintf(format, v)
			}
			return ""
		})
	}
	// late is a percentile of lateness, with the range of the rounds.
	late := func(name string, percentile func(Percentiles) float64) {
		row(name, func(m Measurement) string {
			values := []float64{percentile(m.LatenessMillis)}
			if len(m.Rounds) > 0 {
				values = nil
				for _, r := range m.Rounds {
					values = append(values, percentile(r.LatenessMillis))
				}
			}
			return newRange(values).String()
		})
	}
	ratios := func(name string, of func(Measurement) *Ratio) {
		for _, p := range []struct {
			name string
			of   func(*Ratio) Range
		}{
			{"p50", func(r *Ratio) Range { return r.P50 }},
			{"p99", func(r *Ratio) Range { return r.P99 }},
			{"max", func(r *Ratio) Range { return r.Max }},
		} {
			row(name+", "+p.name, func(m Measurement) string {
				if to := of(m); to != nil {
					return p.of(to).String()
				}
				return ""
			})
		}
	}
	fmt.Fprintln(t)
	row("", func(m Measurement) string { return m.Name })
	number("jobs", "%.0f", func(m Measurement) float64 { return float64(m.Jobs) })
	some("inserted /s", "%.0f", func(m Measurement) float64 { return m.InsertedPerSecond })
	number("published /s", "%.0f", func(m Measurement) float64 { return m.PublishedPerSecond })
	number("published /min", "%.0f", func(m Measurement) float64 { return m.PublishedPerMinute })
	number("lost", "%.0f", func(m Measurement) float64 { return float64(m.Lost) })
	number("duplicated", "%.0f", func(m Measurement) float64 { return float64(m.Duplicated) })
	number("early", "%.0f", func(m Measurement) float64 { return float64(m.Early) })
	late("lateness ms, min", func(p Percentiles) float64 { return p.Min })
	late("p50", func(p Percentiles) float64 { return p.P50 })
	late("p95", func(p Percentiles) float64 { return p.P95 })
	late("p99", func(p Percentiles) float64 { return p.P99 })
	late("p99.9", func(p Percentiles) float64 { return p.P999 })
	late("max", func(p Percentiles) float64 { return p.Max })
	ratios("× the floor", func(m Measurement) *Ratio { return m.ToFloor })
	ratios("× the floor of QoS 1", func(m Measurement) *Ratio { return m.ToFloorQoS1 })
	row("share of the ceiling", func(m Measurement) string {
		if m.ToCeiling == nil {
			return ""
		}
		return m.ToCeiling.String()
	})
	some("first message, s", "%.2f", func(m Measurement) float64 { return m.FirstSeconds })
	some("database statements /s", "%.0f", func(m Measurement) float64 { return m.StatementsPerSecond })
	some("a job", "%.3f", func(m Measurement) float64 { return m.StatementsPerJob })
	some("database connections", "%.0f", func(m Measurement) float64 { return float64(m.Connections) })
	return t.Flush()
}

// comparison compares reactor with the others: by throughput for a backlog, by lateness for
// other loads.
func (r Result) comparison(out io.Writer, list []Measurement) error {
	fmt.Fprintln(out)
	if r.BareClaimsPerSecond > 0 {
		fmt.Fprintf(out, "the bare claim, without a broker: %.0f jobs/s\n", r.BareClaimsPerSecond)
	}
	for _, m := range list {
		switch {
		case m.Name == reactorName:
		case r.Load.backlog():
			fmt.Fprintf(out, "reactor publishes %.2f × as fast as: %s\n", ratio(r.Reactor.PublishedPerSecond, m.PublishedPerSecond), m.Name)
		default:
			fmt.Fprintf(out, "%.1f × as late as reactor at p50, %.1f × at p99: %s\n",
				ratio(m.LatenessMillis.P50, r.Reactor.LatenessMillis.P50), ratio(m.LatenessMillis.P99, r.Reactor.LatenessMillis.P99), m.Name)
		}
	}
	if i := r.Reactor.Internals; i != nil {
		t := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
		fmt.Fprint(t, "\ninside reactor, ms\tmean\tp50\tp99\tmax\tjobs each\t\n")
		for _, row := range []struct {
			name string
			Timing
			jobs float64
		}{{"claim", i.Claim, i.JobsPerClaim}, {"acknowledgement", i.Ack, 1}, {"settlement", i.Settle, i.JobsPerSettlement}, {"late when sent", i.Launch, 1}} {
			fmt.Fprintf(t, "%s\t%.2f\t%.2f\t%.2f\t%.2f\t%.1f\t\n", row.name, row.Mean, row.P50, row.P99, row.Max, row.jobs)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(out)
	return err
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// slicesTable shows how lateness, and the statements whose cost could grow, went over time.
func slicesTable(out io.Writer, list []Measurement) error {
	for _, m := range list {
		if len(m.Slices) == 0 {
			continue
		}
		t := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
		fmt.Fprintf(t, "%s, from s\tto\tjobs\tp50 ms\tp99 ms\tscan ms\theartbeat ms\t\n", m.Name)
		for _, s := range m.Slices {
			fmt.Fprintf(t, "%.0f\t%.0f\t%d\t%.2f\t%.2f\t", s.FromSeconds, s.ToSeconds, s.Jobs, s.P50, s.P99)
			cell(t, "%.3f", s.ScanMillis)
			cell(t, "%.3f", s.HeartbeatMillis)
			fmt.Fprintln(t)
		}
		if m.IdleAfter != nil {
			fmt.Fprint(t, "idle after it\t\t\t\t\t")
			cell(t, "%.3f", m.IdleAfter.ScanMillis)
			cell(t, "%.3f", m.IdleAfter.HeartbeatMillis)
			fmt.Fprintln(t)
		}
		if err := t.Flush(); err != nil {
			return err
		}
		if m.IdleAfter != nil {
			fmt.Fprint(out, "idle after it, % of a core:")
			for _, u := range m.IdleAfter.Usage {
				fmt.Fprintf(out, " %s %.2f", u.Name, 100*ratio(u.CPUSeconds, m.IdleAfter.Seconds))
			}
			fmt.Fprintln(out)
		}
		fmt.Fprintln(out)
	}
	return nil
}

// usageTable shows the CPU time and memory of each process.
func usageTable(out io.Writer, list []Measurement) error {
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "during\tprocess\tCPU s\t% of a core\tµs a job\tRSS MB\tpeak\t\n")
	for _, m := range list {
		for _, u := range m.Usage {
			fmt.Fprintf(t, "%s\t%s\t%.2f\t%.2f\t", m.Name, u.Name, u.CPUSeconds, 100*ratio(u.CPUSeconds, m.Seconds))
			cell(t, "%.1f", 1e6*ratio(u.CPUSeconds, float64(m.Jobs)))
			cell(t, "%.1f", float64(u.RSSBytes)/1e6)
			cell(t, "%.1f", float64(u.PeakRSSBytes)/1e6)
			fmt.Fprintln(t)
		}
	}
	return t.Flush()
}

// cell leaves a cell empty if the value is 0.
func cell(out io.Writer, format string, value float64) {
	if value > 0 {
		fmt.Fprintf(out, format, value)
	}
	fmt.Fprint(out, "\t")
}
