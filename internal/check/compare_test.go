package check_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/check"
)

var noon = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

// at is n milliseconds after noon.
func at(n float64) time.Time { return noon.Add(time.Duration(n * float64(time.Millisecond))) }

func job(id int64, fire float64) check.Expected {
	return check.Expected{ID: id, FireAt: at(fire), Topic: "t", Payload: []byte("p")}
}

func message(id int64, arrives float64) check.Received {
	return check.Received{ID: id, At: at(arrives), Topic: "t", Payload: []byte("p")}
}

func TestCompareReports(t *testing.T) {
	t.Parallel()
	type jobs = []check.Expected
	type messages = []check.Received
	for name, c := range map[string]struct {
		jobs     jobs
		messages messages
		cfg      check.Config
		want     string // "": Compare must report no error
	}{
		"no error":                 {jobs: jobs{job(1, 0), job(2, 0)}, messages: messages{message(2, 1), message(1, 0)}},
		"nothing expected":         {want: check.ErrNothingExpected.Error()},
		"lost":                     {jobs: jobs{job(1, 0), job(2, 0)}, messages: messages{message(2, 1)}, want: "1 lost (job 1)"},
		"all lost":                 {jobs: jobs{job(2, 0), job(1, 0)}, want: "2 lost (job 1, 2)"},
		"many lost":                {jobs: jobs{job(1, 0), job(2, 0), job(3, 0), job(4, 0), job(5, 0), job(6, 0)}, want: "6 lost (job 1, 2, 3, 4, 5, …)"},
		"not due yet":              {jobs: jobs{job(1, 0), job(2, 10)}, messages: messages{message(1, 1)}, cfg: check.Config{Until: at(9)}},
		"due just now":             {jobs: jobs{job(1, 9)}, cfg: check.Config{Until: at(9)}, want: "1 lost"},
		"duplicated":               {jobs: jobs{job(1, 0)}, messages: messages{message(1, 1), message(1, 2), message(1, 3)}, want: "1 duplicated (job 1, 2 extra, 0 with DUP)"},
		"redelivered still counts": {jobs: jobs{job(1, 0)}, messages: messages{message(1, 1), {ID: 1, At: at(2), Topic: "t", Payload: []byte("p"), Dup: true}}, want: "1 extra, 1 with DUP"},
		"early by a microsecond":   {jobs: jobs{job(1, 5)}, messages: messages{message(1, 4.999)}, want: "1 early (job 1, by up to 1µs)"},
		"early and due later":      {jobs: jobs{job(1, 50)}, messages: messages{message(1, 5)}, cfg: check.Config{Until: at(9)}, want: "1 early"},
		"early copy, late first":   {jobs: jobs{job(1, 5)}, messages: messages{message(1, 6), message(1, 4)}, want: "1 early"},
		"clock offset":             {jobs: jobs{job(1, 5)}, messages: messages{message(1, 3)}, cfg: check.Config{ClockOffset: 2 * time.Millisecond}},
		"clock offset, early":      {jobs: jobs{job(1, 5)}, messages: messages{message(1, 6)}, cfg: check.Config{ClockOffset: -2 * time.Millisecond}, want: "1 early"},
		"within clock error":       {jobs: jobs{job(1, 5)}, messages: messages{message(1, 4.5)}, cfg: check.Config{ClockError: time.Millisecond}},
		"known later, yet early":   {jobs: jobs{{ID: 1, FireAt: at(5), KnownAt: at(9)}}, messages: messages{message(1, 4)}, want: "1 early"},
		"foreign":                  {jobs: jobs{job(1, 0)}, messages: messages{message(1, 0), message(7, 0)}, want: "1 foreign (job 7)"},
		"foreign alone":            {messages: messages{message(7, 0)}, want: "1 foreign"},
		"no id":                    {jobs: jobs{job(1, 0)}, messages: messages{message(1, 0), message(check.NoID, 0)}, want: "1 foreign (job without id)"},
		"no id, and a job NoID":    {jobs: jobs{job(math.MinInt64, 0)}, messages: messages{message(check.NoID, 0)}, want: "lost"},
		"other topic":              {jobs: jobs{job(1, 0)}, messages: messages{{ID: 1, At: at(0), Topic: "u", Payload: []byte("p")}}, want: "1 altered (job 1)"},
		"other payload":            {jobs: jobs{job(1, 0)}, messages: messages{{ID: 1, At: at(0), Topic: "t", Payload: []byte("P")}}, want: "1 altered"},
		"payload appears":          {jobs: jobs{{ID: 1, FireAt: at(0), Payload: []byte{}}}, messages: messages{message(1, 0)}, want: "1 altered"},
		"altered copy":             {jobs: jobs{job(1, 0)}, messages: messages{message(1, 0), {ID: 1, At: at(0)}}, want: "altered"},
		"not compared":             {jobs: jobs{{ID: 1, FireAt: at(0)}}, messages: messages{message(1, 0)}},
	} {
		r := check.Compare(c.jobs, c.messages, c.cfg)
		err := r.Err()
		switch {
		case c.want == "" && (err != nil || !r.OK()):
			t.Errorf("%s: error %v, want none", name, err)
		case c.want != "" && (err == nil || r.OK()):
			t.Errorf("%s: no error", name)
		case c.want != "" && !strings.Contains(err.Error(), c.want):
			t.Errorf("%s: error %q does not contain %q", name, err, c.want)
		case err != nil && strings.Contains(err.Error(), "\n"):
			t.Errorf("%s: the error has more than one line: %q", name, err)
		}
	}
	if err := check.Compare(nil, nil, check.Config{}).Err(); !errors.Is(err, check.ErrNothingExpected) {
		t.Errorf("nothing at all: %v", err)
	}
	if (check.Report{}).OK() {
		t.Error("an empty report is OK")
	}
}

func TestCompareCounts(t *testing.T) {
	t.Parallel()
	jobs := []check.Expected{job(1, 0), job(2, 100), job(3, 200), job(4, 300), job(4, 300), job(5, 9999)}
	messages := []check.Received{message(3, 201), message(1, 2), message(1, 50), message(2, 99), message(8, 0), message(8, 1)}
	r := check.Compare(jobs, messages, check.Config{Until: at(1000)})
	if r.Expected != 5 || r.Due != 4 || r.Messages != 6 || r.Published != 3 {
		t.Errorf("expected %d, due %d, messages %d, published %d", r.Expected, r.Due, r.Messages, r.Published)
	}
	for name, c := range map[string]struct {
		got   check.Findings
		count int
		ids   []int64
	}{
		"lost": {r.Lost, 1, []int64{4}}, "duplicated": {r.Duplicated, 1, []int64{1}},
		"early": {r.Early, 1, []int64{2}}, "foreign": {r.Foreign, 2, []int64{8, 8}},
		"altered": {r.Altered, 0, nil},
	} {
		if c.got.Count != c.count || !slices.Equal(c.got.IDs, c.ids) {
			t.Errorf("%s: %+v, want %d of %v", name, c.got, c.count, c.ids)
		}
	}
	if r.MaxEarly != time.Millisecond {
		t.Errorf("MaxEarly is %s, want 1ms", r.MaxEarly)
	}
	// Every message is accounted for, and every due job.
	if r.Messages != r.Published+r.Duplicated.Count+r.Foreign.Count || r.Due != r.Published+r.Lost.Count {
		t.Error("the counts do not add up")
	}
}

func TestCompareLateness(t *testing.T) {
	t.Parallel()
	var jobs []check.Expected
	var messages []check.Received
	for i := range 1000 { // one job each millisecond, late by 0.01, 0.02, … 10 ms
		id, fire := int64(i), float64(i)
		jobs = append(jobs, job(id, fire))
		messages = append(messages, message(id, fire+float64(i+1)/100))
	}
	r := check.Compare(jobs, messages, check.Config{})
	for percent, want := range map[float64]time.Duration{50: 5 * time.Millisecond, 95: 9500 * time.Microsecond, 99: 9900 * time.Microsecond} {
		if got := r.LatenessAt(percent); (got - want).Abs() > want/500 {
			t.Errorf("p%v is %s, want %s", percent, got, want)
		}
	}
	if r.MaxLateness != 10*time.Millisecond {
		t.Errorf("max is %s", r.MaxLateness)
	}
	if want := 999 / messages[999].At.Sub(messages[0].At).Seconds(); math.Abs(r.PerSecond-want) > 1e-6 {
		t.Errorf("%f per second, want %f", r.PerSecond, want)
	}

	// The lateness of a backlog counts from KnownAt. Without KnownAt it can be days.
	backlog := check.Expected{ID: 1, FireAt: at(-3_600_000), KnownAt: at(0)}
	r = check.Compare([]check.Expected{backlog}, []check.Received{message(1, 7)}, check.Config{})
	if r.MaxLateness != 7*time.Millisecond || r.PerSecond != 0 {
		t.Errorf("backlog: %s late, %f per second", r.MaxLateness, r.PerSecond)
	}
	backlog.FireAt, backlog.KnownAt = noon.AddDate(0, 0, -9), time.Time{}
	r = check.Compare([]check.Expected{backlog}, []check.Received{message(1, 0)}, check.Config{})
	if r.MaxLateness != 9*24*time.Hour || r.LatenessAt(50) < 23*time.Hour {
		t.Errorf("nine days: max %s, p50 %s", r.MaxLateness, r.LatenessAt(50))
	}
}
