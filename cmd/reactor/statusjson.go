package main

import (
	"time"

	"github.com/job-publisher/reactor/internal/words"
	"github.com/job-publisher/reactor/pgsource"
)

// statusJSON is a status in JSON (docs/status.md). Ages are in seconds, lateness in milliseconds. A number of the backlog of 10001
// means that there are more than 10,000.
type statusJSON struct {
	At            string         `json:"at"`
	Deployment    string         `json:"deployment"`
	SchemaVersion int64          `json:"schema_version"`
	Backlog       backlogJSON    `json:"backlog"`
	Next          []nextJSON     `json:"next"`
	Instances     []instanceJSON `json:"instances"`
	Unowned       int            `json:"shards_without_owner"`
	Lanes         []laneJSON     `json:"lanes"`
	Problems      []string       `json:"problems"`
}

type backlogJSON struct {
	Due      int64   `json:"due"`
	Oldest   float64 `json:"oldest_due_seconds"`
	Soon     int64   `json:"due_within_a_minute"`
	Firing   int64   `json:"firing"`
	Retrying int64   `json:"retrying"`
	Blocked  int64   `json:"blocked"`
	Failed   int64   `json:"not_published"`
}

type nextJSON struct {
	ID     int64  `json:"id"`
	FireAt string `json:"fire_at"`
	Topic  string `json:"topic"`
}

type instanceJSON struct {
	Name      string        `json:"name"`
	Version   string        `json:"version,omitempty"`
	Protocol  int           `json:"protocol"`
	State     string        `json:"state"`
	StartedAt string        `json:"started_at"`
	Beat      float64       `json:"heartbeat_age_seconds"`
	Fixed     bool          `json:"fixed_share,omitempty"`
	Shards    int           `json:"shards"`
	Lanes     int           `json:"lanes"`
	Feed      string        `json:"feed,omitempty"`
	Says      *snapshotJSON `json:"says,omitempty"`
}

// snapshotJSON is what an instance says of itself.
type snapshotJSON struct {
	Ready     bool          `json:"ready"`
	Problems  []string      `json:"problems,omitempty"`
	Published int64         `json:"published"`
	Failed    int64         `json:"failed"`
	Pending   int64         `json:"pending"`
	InFlight  int64         `json:"in_flight"`
	LanesUp   int64         `json:"lanes_up"`
	Wanted    int64         `json:"lanes_wanted"`
	OldestDue float64       `json:"oldest_due_seconds"`
	Lateness  *latenessJSON `json:"lateness,omitempty"`
}

type latenessJSON struct {
	Window float64 `json:"window_seconds"`
	Jobs   int64   `json:"jobs"`
	P50    float64 `json:"p50_ms"`
	P99    float64 `json:"p99_ms"`
	Max    float64 `json:"max_ms"`
}

type laneJSON struct {
	Lane     int    `json:"lane"`
	Instance string `json:"instance,omitempty"`
	InFlight int64  `json:"in_flight"`
}

func statusJSONOf(s pgsource.Status) statusJSON {
	b := s.Backlog
	j := statusJSON{
		At: timeText(s.At), Deployment: s.Deployment, SchemaVersion: s.SchemaVersion, Unowned: s.Unowned,
		Backlog: backlogJSON{b.Due, b.Oldest.Seconds(), b.Soon, b.Firing, b.Retrying, b.Blocked, b.Failed},
		Next:    []nextJSON{}, Instances: []instanceJSON{}, Lanes: []laneJSON{}, Problems: problemTexts(s),
	}
	for _, n := range s.Next {
		j.Next = append(j.Next, nextJSON{n.ID, timeText(n.FireAt), n.Topic})
	}
	for _, i := range s.Instances {
		j.Instances = append(j.Instances, instanceJSON{
			Name: i.Name, Version: i.Version, Protocol: i.Protocols.Newest, State: words.State(i), StartedAt: timeText(i.Started), Beat: i.Beat.Seconds(),
			Fixed: !i.Dynamic, Shards: i.Shards, Lanes: i.Lanes, Feed: i.Feed, Says: saysJSON(i),
		})
	}
	for _, l := range s.Lanes {
		j.Lanes = append(j.Lanes, laneJSON{l.Lane, l.Instance, l.InFlight})
	}
	return j
}

func saysJSON(i pgsource.InstanceStatus) *snapshotJSON {
	n := i.Snapshot
	if n == nil {
		return nil
	}
	j := &snapshotJSON{
		Ready: n.Ready, Problems: n.Problems, Published: n.Published, Failed: n.Failed, Pending: n.Pending, InFlight: n.InFlight,
		LanesUp: n.LanesUp, Wanted: n.Lanes, OldestDue: n.OldestDue.Seconds(),
	}
	if r := n.Recent; r.Jobs > 0 {
		ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
		j.Lateness = &latenessJSON{r.Window.Seconds(), r.Jobs, ms(r.P50), ms(r.P99), ms(r.Max)}
	}
	return j
}
