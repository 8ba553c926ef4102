package check

import (
	"bytes"
	"slices"
	"time"
)

// Expected is one job that must be published.
type Expected struct {
	ID     int64
	FireAt time.Time // on the database's clock

	// KnownAt is the time, on the database's clock, at which reactor could first know
	// the job: its insert or, for a backlog, the start of the program. Lateness counts
	// from the later one of FireAt and KnownAt. Optional.
	KnownAt time.Time

	Topic   string // empty: not compared
	Payload []byte // nil: not compared
}

// Received is one message that the subscriber received.
type Received struct {
	ID      int64 // from the user property "job-id"; NoID if it is missing or not a number
	Topic   string
	Payload []byte
	QoS     byte
	Dup     bool // set by the broker: it may have sent this message to us before
	Retain  bool
	At      time.Time // on the subscriber's clock
}

// Config says how to compare. The zero value suits a subscriber on the database's host.
type Config struct {
	// ClockOffset is the database's clock minus the subscriber's clock.
	ClockOffset time.Duration

	// ClockError is the largest error of ClockOffset, in either direction. A message
	// counts as early only if it is early by more than this.
	ClockError time.Duration

	// Until is the end of the observation, on the database's clock: a job whose FireAt
	// is later need not have been published. Defaults to no end: every job must have
	// been published.
	Until time.Time
}

// Compare compares the received messages with the expected jobs. The order does not
// matter on either side. Memory is O(expected + received); so is time, except for
// sorting the lateness.
func Compare(expected []Expected, received []Received, cfg Config) Report {
	var r Report
	jobs := make(map[int64]*arrivals, len(expected))
	for i := range expected {
		e := &expected[i]
		if _, twice := jobs[e.ID]; twice {
			continue
		}
		jobs[e.ID] = &arrivals{want: e}
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
		r.compareTime(id, job, cfg)
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

// arrivals summarizes the messages of one job.
type arrivals struct {
	want    *Expected
	copies  int
	altered bool
	first   time.Time // earliest arrival, on the database's clock
}

func same(want *Expected, got *Received) bool {
	return (want.Topic == "" || want.Topic == got.Topic) &&
		(want.Payload == nil || bytes.Equal(want.Payload, got.Payload))
}

// compareTime compares the first arrival with fire_at.
func (r *Report) compareTime(id int64, job *arrivals, cfg Config) {
	if early := job.want.FireAt.Sub(job.first); early > cfg.ClockError {
		r.Early.add(id)
		r.MaxEarly = max(r.MaxEarly, early)
		return // it has no lateness: a 0 would improve the percentiles
	}
	from := job.want.FireAt
	if job.want.KnownAt.After(from) {
		from = job.want.KnownAt
	}
	late := max(job.first.Sub(from), 0) // a job that arrives before KnownAt is on time
	r.MaxLateness = max(r.MaxLateness, late)
	r.Lateness = append(r.Lateness, late.Round(time.Microsecond)) // the resolution of timestamptz
}
