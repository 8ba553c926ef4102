package reactor

import (
	"fmt"
	"slices"
	"time"
)

// Health is a judgement of an instance: whether due jobs are published, and what is wrong.
type Health struct {
	// Ready tells that due jobs are published.
	Ready bool
	// Problems says in words what is wrong. Some problems don't stop jobs from being published.
	Problems []string
	// Parts are what publishing depends on, always the same ones in the same order: database,
	// broker, feed, clock, shards, lanes, jobs.
	Parts []Part
}

// Part is one of the things that publishing depends on.
type Part struct {
	Name  string
	State State
	// Problems are those of Health.Problems that concern this part.
	Problems []string
	// For is how long the part has been in this state, as Reactor.Health has observed it, to about
	// a second. It is 0 in a judgement of Stats, which are of one moment.
	For time.Duration
}

// State is how well a part does.
type State uint8

const (
	// Works: nothing is wrong.
	Works State = iota
	// Degraded: due jobs are published all the same.
	Degraded
	// Fails: due jobs are not published.
	Fails
)

// String returns "ok", "degraded" or "failing".
func (s State) String() string {
	return [...]string{"ok", "degraded", "failing"}[s]
}

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

const (
	// silentBeat is how old the last heartbeat may be: beyond that age, no job is sent any
	// more.
	silentBeat = 4 * time.Second
	// silentClock is how old the last reading of the database's clock may be. It is read every two
	// seconds; later, our time falls behind by 50 µs a second.
	silentClock = 10 * time.Second
	// vagueClock is by how much our time may be behind the database's, which makes jobs late.
	vagueClock = 50 * time.Millisecond
	// stuckAfter: an instance is stuck if a job is later than this, and no message was accepted
	// for longer than this.
	stuckAfter = 5 * time.Second
	// behindAfter is how late a job may be even if others are published.
	behindAfter = 30 * time.Second
)

// Health judges by work that was done or not done: open connections and a live process prove
// little.
func (s Stats) Health() Health {
	h := Health{Ready: true}
	for _, part := range []struct {
		name  string
		judge func(Stats, *Part)
	}{
		{"database", judgeDatabase},
		{"broker", judgeBroker},
		{"feed", judgeFeed},
		{"clock", judgeClock},
		{"shards", judgeShards},
		{"lanes", judgeLanes},
		{"jobs", judgeJobs},
	} {
		p := Part{Name: part.name}
		part.judge(s, &p)
		h.Ready = h.Ready && p.State != Fails
		for _, text := range p.Problems {
			if !slices.Contains(h.Problems, text) {
				h.Problems = append(h.Problems, text)
			}
		}
		h.Parts = append(h.Parts, p)
	}
	return h
}

// fails records a problem that stops jobs from being published, degraded one that does not.
func (p *Part) fails(format string, args ...any)    { p.problem(Fails, format, args) }
func (p *Part) degraded(format string, args ...any) { p.problem(Degraded, format, args) }

func (p *Part) problem(state State, format string, args []any) {
	p.State = max(p.State, state)
	p.Problems = append(p.Problems, fmt.Sprintf(format, args...))
}

func judgeDatabase(s Stats, p *Part) {
	switch {
	case s.LastBeat < 0:
		p.fails("this instance has not joined the others yet")
	case s.LastBeat > silentBeat:
		p.fails("the database has not answered a heartbeat for %v", s.LastBeat.Round(time.Second))
	}
}

func judgeBroker(s Stats, p *Part) {
	if s.LanesUp == 0 {
		p.fails("no connection to the broker is up")
	}
}

func judgeFeed(s Stats, p *Part) {
	if !s.FeedUp {
		p.degraded("new jobs are not announced; the sweep finds them")
	}
	if s.Feed.Problem != "" {
		p.degraded("%s", s.Feed.Problem)
	}
}

func judgeClock(s Stats, p *Part) {
	switch {
	case s.LastClock < 0:
		p.fails("the database's clock has not been read yet")
	case s.LastClock > silentClock:
		p.degraded("the database's clock could not be read for %v", s.LastClock.Round(time.Second))
	case s.ClockBound > vagueClock:
		p.degraded("the database's clock is known to %v only, and jobs may be late by as much: the database answers slowly", s.ClockBound.Round(time.Millisecond))
	}
}

func judgeShards(s Stats, p *Part) {
	switch {
	case s.LastBeat < 0:
		p.fails("this instance has not joined the others yet")
	case s.LastBeat <= silentBeat && s.Shards == 0:
		p.fails("this instance has no share of the jobs")
	}
}

func judgeLanes(s Stats, p *Part) {
	switch {
	case s.LanesUp == 0:
		p.fails("no connection to the broker is up")
	case s.LanesUp < s.Lanes:
		p.degraded("not all connections to the broker are up")
	}
	if s.Contested > 0 {
		p.degraded("somebody else uses the MQTT sessions of this deployment")
	}
}

func judgeJobs(s Stats, p *Part) {
	quiet := s.LastAccepted < 0 || s.LastAccepted > stuckAfter
	switch late := s.OldestDue.Round(time.Second); {
	case s.OldestDue > behindAfter:
		p.fails("a job has been due for %v and is not published", late)
	case s.OldestDue > stuckAfter && quiet:
		p.fails("a job has been due for %v, and nothing is being published", late)
	case s.OldestDue > stuckAfter:
		p.degraded("a job has been due for %v; others are being published", late)
	}
	switch {
	case s.LastLoad < 0 && s.Shards > 0 && quiet:
		p.fails("the table of jobs has not been read yet")
	case s.LastLoad > loadPatience(s.Loop) && quiet:
		p.fails("the table of jobs could not be read for %v", s.LastLoad.Round(time.Second))
	}
	for _, stall := range s.Stalls {
		p.fails("the %s has not gone on for %v: restart this instance", stall.Part, stall.For.Round(time.Second))
	}
	if s.InQuarantine > 0 {
		p.degraded("%d jobs cannot be claimed because of their rows, see reactor.failed_jobs", s.InQuarantine)
	}
}

// loadPatience is how old the last read of the table may be. The table is read every loop.
func loadPatience(loop time.Duration) time.Duration { return max(3*loop, stuckAfter) }
