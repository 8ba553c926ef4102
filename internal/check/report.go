package check

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
	"time"
)

// Findings are jobs of one kind.
type Findings struct {
	Count int     // of messages for Duplicated (the extra ones) and Foreign, of jobs otherwise
	IDs   []int64 // of the jobs, sorted; an id may repeat in Foreign
}

func (f *Findings) add(id int64) {
	f.Count++
	f.IDs = append(f.IDs, id)
}

// Report is what Judge found.
type Report struct {
	Expected  int // jobs asked for
	Due       int // of these, jobs whose time has come
	Messages  int // that arrived, with all copies
	Published int // jobs that arrived at least once

	Lost       Findings // due and never arrived
	Duplicated Findings // arrived more than once; Count is that of the extra messages
	Early      Findings // arrived before fire_at
	Foreign    Findings // nobody asked for these
	Altered    Findings // topic or payload differ from the row

	// Redelivered is how many of the extra messages carry the DUP flag: the broker
	// may have sent them twice because the subscriber's connection was lost. They
	// stay counted as duplicates: the flag proves no innocence, since a message
	// that was published twice can be redelivered as well. A subscriber at QoS 2
	// sees none.
	Redelivered int

	MaxEarly    time.Duration // by which the earliest was early
	MaxLateness time.Duration

	// Lateness of each job's first arrival, sorted. Early ones are left out.
	Lateness []time.Duration

	// PerSecond is the rate of jobs from the first to the last first arrival;
	// 0 where there are fewer than two.
	PerSecond float64
}

// ErrNothingExpected: a judgement without jobs would prove nothing.
var ErrNothingExpected = errors.New("no jobs were expected, so nothing is proved")

// LatenessAt is a percentile of lateness, 0 < percent ≤ 100.
func (r Report) LatenessAt(percent float64) time.Duration {
	if len(r.Lateness) == 0 {
		return 0
	}
	rank := int(math.Ceil(percent / 100 * float64(len(r.Lateness))))
	return r.Lateness[min(max(rank, 1), len(r.Lateness))-1]
}

// OK reports whether every promise was kept.
func (r Report) OK() bool { return r.Err() == nil }

// Err is nil, or one line that counts what went wrong and names the first few jobs.
func (r Report) Err() error {
	if r.Expected == 0 && r.Messages == 0 {
		return ErrNothingExpected
	}
	var broken []string
	for _, kind := range []struct {
		name   string
		found  Findings
		detail string
	}{
		{"lost", r.Lost, ""},
		{"duplicated", r.Duplicated, fmt.Sprintf(", %d extra, %d with DUP", r.Duplicated.Count, r.Redelivered)},
		{"early", r.Early, ", by up to " + r.MaxEarly.String()},
		{"foreign", r.Foreign, ""},
		{"altered", r.Altered, ""},
	} {
		if kind.found.Count > 0 {
			broken = append(broken, fmt.Sprintf("%d %s (%s%s)",
				len(kind.found.IDs), kind.name, firstIDs(kind.found.IDs), kind.detail))
		}
	}
	if len(broken) == 0 {
		return nil
	}
	return fmt.Errorf("of %d due jobs %d published: %s", r.Due, r.Published, strings.Join(broken, "; "))
}

// firstIDs names a few: "job 1, 2, 3, …".
func firstIDs(ids []int64) string {
	const few = 5
	var b strings.Builder
	b.WriteString("job ")
	for i, id := range ids {
		if i == few {
			b.WriteString(", …")
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		if id == NoID {
			b.WriteString("without id")
		} else {
			fmt.Fprint(&b, id)
		}
	}
	return b.String()
}

// Table writes the result for a person. Kinds that nobody hopes to see have a
// line only when there are any.
func (r Report) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(name string, value any) { fmt.Fprintf(t, "%s\t%v\n", name, value) }
	row("published", fmt.Sprintf("%d of %d", r.Published, r.Due))
	row("lost", r.Lost.Count)
	row("duplicated", r.Duplicated.Count)
	row("early", r.Early.Count)
	if r.Foreign.Count > 0 {
		row("foreign", r.Foreign.Count)
	}
	if r.Altered.Count > 0 {
		row("altered", r.Altered.Count)
	}
	row("lateness p50", milliseconds(r.LatenessAt(50)))
	row("lateness p99", milliseconds(r.LatenessAt(99)))
	row("lateness max", milliseconds(r.MaxLateness))
	row("jobs per second", fmt.Sprintf("%.0f", r.PerSecond))
	return t.Flush()
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000)
}
