package bench

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Table writes the result for a person.
func (r Result) Table(out io.Writer) error {
	list := r.all()
	write := []func(io.Writer, []Measurement) error{measuresTable, r.comparison, usageTable}
	if r.Reactor.Jobs == 0 { // idle
		write = []func(io.Writer, []Measurement) error{usageTable}
		fmt.Fprintf(out, "\nidle for %.0f s: the database got %.2f statements per second, over %d connections\n\n", r.Reactor.Seconds, r.Reactor.StatementsPerSecond, r.Reactor.Connections)
	}
	for _, w := range write {
		if err := w(out, list); err != nil {
			return err
		}
	}
	return nil
}

// measuresTable has a column for each measurement.
func measuresTable(out io.Writer, list []Measurement) error {
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	row := func(name, format string, value func(Measurement) float64) {
		fmt.Fprint(t, name, "\t")
		for _, m := range list {
			fmt.Fprintf(t, format+"\t", value(m))
		}
		fmt.Fprintln(t)
	}
	fmt.Fprint(t, "\n\t")
	for _, m := range list {
		fmt.Fprint(t, m.Name, "\t")
	}
	fmt.Fprintln(t)
	row("jobs", "%.0f", func(m Measurement) float64 { return float64(m.Jobs) })
	row("inserted /s", "%.0f", func(m Measurement) float64 { return m.InsertedPerSecond })
	row("published /s", "%.0f", func(m Measurement) float64 { return m.PublishedPerSecond })
	row("published /min", "%.0f", func(m Measurement) float64 { return m.PublishedPerMinute })
	row("lost", "%.0f", func(m Measurement) float64 { return float64(m.Lost) })
	row("duplicated", "%.0f", func(m Measurement) float64 { return float64(m.Duplicated) })
	row("early", "%.0f", func(m Measurement) float64 { return float64(m.Early) })
	row("lateness ms, min", "%.2f", func(m Measurement) float64 { return m.LatenessMillis.Min })
	row("p50", "%.2f", func(m Measurement) float64 { return m.LatenessMillis.P50 })
	row("p95", "%.2f", func(m Measurement) float64 { return m.LatenessMillis.P95 })
	row("p99", "%.2f", func(m Measurement) float64 { return m.LatenessMillis.P99 })
	row("p99.9", "%.2f", func(m Measurement) float64 { return m.LatenessMillis.P999 })
	row("max", "%.2f", func(m Measurement) float64 { return m.LatenessMillis.Max })
	row("database statements /s", "%.0f", func(m Measurement) float64 { return m.StatementsPerSecond })
	row("statements per job", "%.2f", func(m Measurement) float64 { return ratio(m.StatementsPerSecond*m.Seconds, float64(m.Jobs)) })
	row("database connections", "%.0f", func(m Measurement) float64 { return float64(m.Connections) })
	return t.Flush()
}

// comparison compares reactor with the others: by throughput for a backlog, by lateness for
// other loads.
func (r Result) comparison(out io.Writer, list []Measurement) error {
	fmt.Fprintln(out)
	if r.BareClaimsPerSecond > 0 {
		fmt.Fprintf(out, "the bare claim, without a broker: %.0f jobs/s\n", r.BareClaimsPerSecond)
	}
	for _, m := range list[:len(list)-1] {
		if r.Load.backlog() {
			fmt.Fprintf(out, "reactor publishes %.2f × as fast as the %s\n", ratio(r.Reactor.PublishedPerSecond, m.PublishedPerSecond), m.Name)
		} else {
			fmt.Fprintf(out, "the %s is %.1f × as late as reactor at p50, %.1f × at p99\n", m.Name,
				ratio(m.LatenessMillis.P50, r.Reactor.LatenessMillis.P50), ratio(m.LatenessMillis.P99, r.Reactor.LatenessMillis.P99))
		}
	}
	if p := r.Reactor.Beside; p != nil {
		fmt.Fprintf(out, "%.0f jobs/s that fell due beside it were late, in ms: %.2f at least, %.2f p50, %.2f p95, %.2f p99, %.2f p99.9, %.2f at most\n",
			r.Load.Beside, p.Min, p.P50, p.P95, p.P99, p.P999, p.Max)
	}
	if i := r.Reactor.Internals; i != nil {
		t := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
		fmt.Fprint(t, "\ninside reactor, ms\tmean\tp50\tp99\tmax\tjobs each\t\n")
		for _, row := range []struct {
			name string
			Timing
			jobs float64
		}{{"claim", i.Claim, i.JobsPerClaim}, {"acknowledgement", i.Ack, 1}, {"settlement", i.Settle, i.JobsPerSettlement}} {
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
