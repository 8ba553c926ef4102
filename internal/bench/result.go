package bench

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/job-publisher/reactor/internal/check"
)

// Result is what a run found.
type Result struct {
	At         time.Time `json:"at"`
	CPUs       int       `json:"cpus"`
	Go         string    `json:"go"`
	PostgreSQL string    `json:"postgresql"`
	Delivery   string    `json:"delivery"`
	Instances  int       `json:"instances"`
	Lanes      int       `json:"lanes"`

	Ceiling  *Measurement `json:"ceiling,omitempty"`
	Baseline *Measurement `json:"baseline,omitempty"`
	Reactor  Measurement  `json:"reactor"`
}

// Measurement is one way of draining the load.
type Measurement struct {
	Name               string  `json:"name"`
	Jobs               int     `json:"jobs"`
	Lost               int     `json:"lost"`
	Duplicated         int     `json:"duplicated"` // extra messages
	Early              int     `json:"early"`
	InsertedPerSecond  float64 `json:"inserted_per_second"`
	PublishedPerSecond float64 `json:"published_per_second"` // from the first arrival to the last
	PublishedPerMinute float64 `json:"published_per_minute"`

	LatenessMillis Percentiles `json:"lateness_ms"`
	// Arrivals counts messages by the tenth of a second since the first.
	Arrivals []int `json:"arrivals_per_100ms"`
	// Distribution is lateness in ms at each of Percents.
	Distribution []float64 `json:"lateness_distribution_ms"`

	// StatementsPerSecond that the database was asked, all clients together.
	StatementsPerSecond float64    `json:"database_statements_per_second"`
	Usage               []Usage    `json:"usage"`
	Internals           *Internals `json:"internals,omitempty"`

	err error
}

// Percentiles of lateness.
type Percentiles struct {
	Min float64 `json:"min"`
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	P9  float64 `json:"p99_9"`
	Max float64 `json:"max"`
}

// Percents are the points of Measurement.Distribution.
var Percents = []float64{1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.99}

func newMeasurement(name string, r check.Report, received []check.Received) Measurement {
	m := Measurement{
		Name: name, Jobs: r.Expected, Lost: r.Lost.Count, Duplicated: r.Duplicated.Count, Early: r.Early.Count,
		PublishedPerSecond: r.PerSecond, PublishedPerMinute: 60 * r.PerSecond, err: r.Err(),
		LatenessMillis: Percentiles{
			P50: millis(r.LatenessAt(50)), P95: millis(r.LatenessAt(95)), P99: millis(r.LatenessAt(99)),
			P9: millis(r.LatenessAt(99.9)), Max: millis(r.MaxLateness),
		},
	}
	if r.Lateness != nil && r.Lateness.TotalCount() > 0 {
		m.LatenessMillis.Min = float64(r.Lateness.Min()) / 1000
	}
	for _, p := range Percents {
		m.Distribution = append(m.Distribution, millis(r.LatenessAt(p)))
	}
	if len(received) > 0 {
		first := slices.MinFunc(received, func(a, b check.Received) int { return a.At.Compare(b.At) }).At
		for _, message := range received {
			tenth := int(message.At.Sub(first) / (100 * time.Millisecond))
			if tenth >= len(m.Arrivals) {
				m.Arrivals = append(m.Arrivals, make([]int, tenth+1-len(m.Arrivals))...)
			}
			m.Arrivals[tenth]++
		}
	}
	return m
}

// Err is nil if every job arrived once and none early.
func (r Result) Err() error {
	errs := []error{r.Reactor.err}
	for _, m := range []*Measurement{r.Ceiling, r.Baseline} {
		if m != nil && m.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.Name, m.err))
		}
	}
	return errors.Join(errs...)
}

// all lists what was measured, the ceiling first.
func (r Result) all() []Measurement {
	var list []Measurement
	for _, m := range []*Measurement{r.Ceiling, r.Baseline} {
		if m != nil {
			list = append(list, *m)
		}
	}
	return append(list, r.Reactor)
}

// Table writes the result for a person.
func (r Result) Table(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	list := r.all()
	row := func(name, format string, value func(Measurement) float64) {
		fmt.Fprint(t, name, "\t")
		for _, m := range list {
			fmt.Fprintf(t, format+"\t", value(m))
		}
		fmt.Fprintln(t)
	}
	fmt.Fprint(t, "\t")
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
	row("p99.9", "%.2f", func(m Measurement) float64 { return m.LatenessMillis.P9 })
	row("max", "%.2f", func(m Measurement) float64 { return m.LatenessMillis.Max })
	row("statements /s", "%.0f", func(m Measurement) float64 { return m.StatementsPerSecond })
	if err := t.Flush(); err != nil {
		return err
	}
	for _, m := range list[:len(list)-1] {
		if m.PublishedPerSecond > 0 && r.Reactor.PublishedPerSecond > 0 {
			fmt.Fprintf(out, "\nreactor publishes %.2f × the %s", r.Reactor.PublishedPerSecond/m.PublishedPerSecond, m.Name)
		}
	}
	if i := r.Reactor.Internals; i != nil {
		fmt.Fprintf(out, "\n\na claim takes %.2f ms for %.0f jobs, an acknowledgement %.2f ms, a settlement %.2f ms for %.0f jobs",
			i.ClaimMillis, i.JobsPerClaim, i.AckMillis, i.SettleMillis, i.JobsPerSettlement)
	}
	fmt.Fprintln(out)
	if err := usageTable(out, list); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out)
	return err
}

// usageTable shows what each process has taken: CPU, also for each job, and memory.
func usageTable(out io.Writer, list []Measurement) error {
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "\t\tCPU s\tµs a job\tpeak MB\t\n")
	for _, m := range list {
		for _, u := range m.Usage {
			fmt.Fprintf(t, "%s\t%s\t%.2f\t%.1f\t", m.Name, u.Name, u.CPUSeconds, 1e6*u.CPUSeconds/float64(max(m.Jobs, 1)))
			if u.PeakRSSBytes > 0 {
				fmt.Fprintf(t, "%.1f", float64(u.PeakRSSBytes)/1e6)
			}
			fmt.Fprint(t, "\t\n")
		}
	}
	return t.Flush()
}
