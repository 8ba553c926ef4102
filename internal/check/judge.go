package check

import (
	"bytes"
	"slices"
	"time"
)

// Expected is one job that somebody asked for.
type Expected struct {
	ID     int64
	FireAt time.Time // on the database's clock

	// KnownAt is when the job could first be known, on the database's clock: its
	// insert, or the start of the program for a backlog. Lateness counts from the
	// later one of FireAt and KnownAt. Optional.
	KnownAt time.Time

	Topic   string // empty: not compared
	Payload []byte // nil: not compared
}

// Received is one message as it arrived.
type Received struct {
	ID      int64 // of the user property "job-id"; NoID where it is missing or no number
	Topic   string
	Payload []byte
	QoS     byte
	Dup     bool // set by the broker: it may have sent this message to us before
	Retain  bool
	At      time.Time // on the subscriber's clock
}

// Config says how to judge. The zero value suits a subscriber on the database's host.
type Config struct {
	// ClockOffset is the database's clock less the subscriber's clock.
	ClockOffset time.Duration

	// ClockError is how far ClockOffset may be off, either way. A message counts
	// as early only when it is early by more than this.
	ClockError time.Duration

	// Until is when the judging happens, on the database's clock: a job whose
	// FireAt is later need not have been published. Defaults to the end of time.
	Until time.Time
}

// Judge holds what arrived against what was asked for. Order does not matter on
// either side. It takes O(expected + received) memory, and time but for sorting the lateness.
func Judge(expected []Expected, received []Received, cfg Config) Report {
	var r Report
	jobs := make(map[int64]*verdict, len(expected))
	for i := range expected {
		e := &expected[i]
		if _, twice := jobs[e.ID]; twice {
			continue
		}
		jobs[e.ID] = &verdict{want: e}
		if cfg.Until.IsZero() || !e.FireAt.After(cfg.Until) {
			r.Due++
		}
	}
	r.Expected = len(jobs)
	r.Messages = len(received)

	for i := range received {
		m := &received[i]
		job := jobs[m.ID]
		if m.ID == NoID || job == nil {
			r.Foreign.add(m.ID)
			continue
		}
		job.copies++
		if job.copies == 2 {
			r.Duplicated.IDs = append(r.Duplicated.IDs, m.ID)
		}
		if job.copies > 1 {
			r.Duplicated.Count++
			if m.Dup {
				r.Redelivered++
			}
		}
		if !job.altered && !same(job.want, m) {
			job.altered = true
			r.Altered.add(m.ID)
		}
		if at := m.At.Add(cfg.ClockOffset); job.first.IsZero() || at.Before(job.first) {
			job.first = at
		}
	}

	var first, last time.Time
	for id, job := range jobs {
		if job.copies == 0 {
			if cfg.Until.IsZero() || !job.want.FireAt.After(cfg.Until) {
				r.Lost.add(id)
			}
			continue
		}
		r.Published++
		if first.IsZero() || job.first.Before(first) {
			first = job.first
		}
		if job.first.After(last) {
			last = job.first
		}
		r.judgeTime(id, job, cfg)
	}
	slices.Sort(r.Lateness)
	if span := last.Sub(first); r.Published > 1 && span > 0 {
		r.PerSecond = float64(r.Published-1) / span.Seconds()
	}
	for _, ids := range []*Findings{&r.Lost, &r.Duplicated, &r.Early, &r.Foreign, &r.Altered} {
		slices.Sort(ids.IDs)
	}
	return r
}

// verdict is what becomes known of one job.
type verdict struct {
	want    *Expected
	copies  int
	altered bool
	first   time.Time // earliest arrival, on the database's clock
}

func same(want *Expected, got *Received) bool {
	return (want.Topic == "" || want.Topic == got.Topic) &&
		(want.Payload == nil || bytes.Equal(want.Payload, got.Payload))
}

// judgeTime places the first arrival against fire_at.
func (r *Report) judgeTime(id int64, job *verdict, cfg Config) {
	if early := job.want.FireAt.Sub(job.first); early > cfg.ClockError {
		r.Early.add(id)
		r.MaxEarly = max(r.MaxEarly, early)
		return // no lateness: it would flatter the percentiles
	}
	from := job.want.FireAt
	if job.want.KnownAt.After(from) {
		from = job.want.KnownAt
	}
	late := max(job.first.Sub(from), 0) // before KnownAt: as good as on time
	r.MaxLateness = max(r.MaxLateness, late)
	r.Lateness = append(r.Lateness, late.Round(time.Microsecond)) // what a timestamptz resolves
}
