package bench

import (
	"fmt"
	"io"
)

// Table writes the result for a person.
func (r Result) Table(out io.Writer) error {
	fmt.Fprintln(out)
	if r.Reactor.Jobs > 0 {
		if err := measuresSheet(r.all()).write(out); err != nil {
			return err
		}
		fmt.Fprintln(out)
	}
	for _, line := range r.comparison() {
		fmt.Fprintln(out, line)
	}
	fmt.Fprintln(out)
	for _, s := range r.details() {
		if err := s.write(out); err != nil {
			return err
		}
		fmt.Fprintln(out)
	}
	return r.usageSheet().write(out)
}

// details are the tables between that of all measurements and that of the processes.
func (r Result) details() []sheet {
	var list []sheet
	if r.Reactor.Internals != nil {
		list = append(list, internalsSheet(*r.Reactor.Internals))
	}
	for _, m := range r.all() {
		if len(m.Slices) > 0 {
			list = append(list, slicesSheet(m))
		}
	}
	return list
}

// measuresSheet has a column for each measurement, and one for the jobs beside it.
func measuresSheet(list []Measurement) sheet {
	var columns []Measurement
	for _, m := range list {
		columns = append(columns, m)
		if m.Beside != nil {
			beside := *m.Beside
			beside.Name = "beside " + m.Name
			columns = append(columns, beside)
		}
	}
	s := sheet{head: []string{""}}
	for _, m := range columns {
		s.head = append(s.head, m.Name)
	}
	row := func(name string, cell func(Measurement) string) {
		var cells []string
		for _, m := range columns {
			cells = append(cells, cell(m))
		}
		s.row(name, cells...)
	}
	number := func(name, format string, value func(Measurement) float64) {
		row(name, func(m Measurement) string { return fmt.Sprintf(format, value(m)) })
	}
	some := func(name, format string, value func(Measurement) float64) {
		row(name, func(m Measurement) string { return positive(format, value(m)) })
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
	return s
}

// comparison compares reactor with the others: by throughput for a backlog, by lateness for
// other loads. Of idle instances it says what they ask the database.
func (r Result) comparison() (lines []string) {
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if r.BareClaimsPerSecond > 0 {
		say("the bare claim, without a broker: %.0f jobs/s", r.BareClaimsPerSecond)
	}
	for _, m := range r.all() {
		switch {
		case r.Reactor.Jobs == 0:
			say("%s, idle for %.0f s: the database got %.2f statements per second, over %d connections",
				m.Name, m.Seconds, m.StatementsPerSecond, m.Connections)
		case m.Name == reactorName:
		case r.Load.backlog():
			say("reactor publishes %.2f × as fast as: %s", ratio(r.Reactor.PublishedPerSecond, m.PublishedPerSecond), m.Name)
		default:
			say("%.1f × as late as reactor at p50, %.1f × at p99: %s",
				ratio(m.LatenessMillis.P50, r.Reactor.LatenessMillis.P50), ratio(m.LatenessMillis.P99, r.Reactor.LatenessMillis.P99), m.Name)
		}
	}
	return lines
}

// internalsSheet shows the times that the instances themselves have measured.
func internalsSheet(i Internals) sheet {
	s := sheet{head: []string{"inside reactor, ms", "mean", "p50", "p99", "max", "jobs each"}}
	for _, row := range []struct {
		name string
		Timing
		jobs float64
	}{{"claim", i.Claim, i.JobsPerClaim}, {"acknowledgement", i.Ack, 1}, {"settlement", i.Settle, i.JobsPerSettlement}, {"late when sent", i.Launch, 1}} {
		cells := []string{row.name}
		for _, ms := range []float64{row.Mean, row.P50, row.P99, row.Max} {
			cells = append(cells, fmt.Sprintf("%.2f", ms))
		}
		s.rows = append(s.rows, append(cells, fmt.Sprintf("%.1f", row.jobs)))
	}
	return s
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// slicesSheet shows how lateness, and the statements whose cost could grow, went over time.
func slicesSheet(m Measurement) sheet {
	s := sheet{head: []string{m.Name + ", from s", "to", "jobs", "p50 ms", "p99 ms", "scan ms", "heartbeat ms"}}
	for _, piece := range m.Slices {
		s.rows = append(s.rows, []string{
			fmt.Sprintf("%.0f", piece.FromSeconds), fmt.Sprintf("%.0f", piece.ToSeconds), fmt.Sprint(piece.Jobs),
			fmt.Sprintf("%.2f", piece.P50), fmt.Sprintf("%.2f", piece.P99),
			positive("%.3f", piece.ScanMillis), positive("%.3f", piece.HeartbeatMillis),
		})
	}
	if after := m.IdleAfter; after != nil {
		s.rows = append(s.rows, []string{"idle after it", "", "", "", "", positive("%.3f", after.ScanMillis), positive("%.3f", after.HeartbeatMillis)})
		note := "idle after it, % of a core:"
		for _, u := range after.Usage {
			note += fmt.Sprintf(" %s %.2f", u.Name, 100*ratio(u.CPUSeconds, after.Seconds))
		}
		s.notes = append(s.notes, note)
	}
	return s
}

// usageSheet shows the CPU time and memory of each process.
func (r Result) usageSheet() sheet {
	s := sheet{head: []string{"during", "process", "CPU s", "% of a core", "µs a job", "RSS MB", "peak"}}
	for _, m := range r.all() {
		for _, u := range m.Usage {
			s.rows = append(s.rows, []string{
				m.Name, u.Name, fmt.Sprintf("%.2f", u.CPUSeconds), fmt.Sprintf("%.2f", 100*ratio(u.CPUSeconds, m.Seconds)),
				positive("%.1f", 1e6*ratio(u.CPUSeconds, float64(m.Jobs))),
				positive("%.1f", float64(u.RSSBytes)/1e6), positive("%.1f", float64(u.PeakRSSBytes)/1e6),
			})
		}
	}
	return s
}
