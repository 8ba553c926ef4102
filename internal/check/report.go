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

// Findings are the jobs or messages with one kind of error.
type Findings struct {
	Count int     // for Duplicated the extra messages, for Foreign the messages, otherwise the jobs
	IDs   []int64 // of the jobs, sorted; in Foreign an id may occur more than once
}

func (f *Findings) add(id int64) {
	f.Count++
	f.IDs = append(f.IDs, id)
}

// Report is the result of Compare.
type Report struct {
	Expected  int // expected jobs
	Due       int // expected jobs whose FireAt is not after Config.Until
	Messages  int // received messages, all copies included
	Published int // jobs that arrived at least once

	Lost       Findings // due jobs that never arrived
	Duplicated Findings // jobs that arrived more than once; Count is the number of extra messages
	Early      Findings // jobs that arrived before fire_at
	Foreign    Findings // messages that belong to no expected job
	Altered    Findings // jobs whose topic or payload differs from the row

	// Redelivered is the number of extra messages with the DUP flag. The broker may have
	// sent them twice because the subscriber's connection was lost. They still count as
	// duplicates, because a message that was published twice can be redelivered too. A
	// subscriber at QoS 2 receives none.
	Redelivered int

	MaxEarly    time.Duration // the largest time by which a job was early
	MaxLateness time.Duration

	// Lateness of each job's first arrival, sorted. Early jobs have no entry.
	Lateness []time.Duration

	// PerSecond is the number of jobs per second. It counts each job's first arrival,
	// from the first job to the last one. It is 0 for fewer than two jobs.
	PerSecond float64
}

// ErrNothingExpected is the error of a report without jobs, which would prove nothing.
var ErrNothingExpected = errors.New("no jobs were expected, so nothing is proved")

// LatenessAt returns a percentile of lateness, 0 < percent ≤ 100.
func (r Report) LatenessAt(percent float64) time.Duration {
	if len(r.Lateness) == 0 {
		return 0
	}
	rank := int(math.Ceil(percent / 100 * float64(len(r.Lateness))))
	return r.Lateness[min(max(rank, 1), len(r.Lateness))-1]
}

// OK reports whether there is no error.
func (r Report) OK() bool { return r.Err() == nil }

// Err returns nil, or one line with the number of errors of each kind and the ids of the
// first few jobs.
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

// firstIDs lists the first ids: "job 1, 2, 3, …".
func firstIDs(ids []int64) string {
	const maxIDs = 5
	var b strings.Builder
	b.WriteString("job ")
	for i, id := range ids {
		if i == maxIDs {
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

// Table writes the result for a person. The kinds Foreign and Altered, which are rare,
// have a line only if there are any.
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
