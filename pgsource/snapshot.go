package pgsource

import (
	"encoding/json"
	"strings"
	"time"
	"unicode"

	"github.com/job-publisher/reactor/reactor/driver"
)

// snapshotJSON is what an instance tells of itself with its heartbeat (reactor.instances.snapshot). Programs of other
// versions read it as well: members are added, and never change their meaning. Durations are in microseconds.
type snapshotJSON struct {
	Ready     bool     `json:"ready"`
	Problems  []string `json:"problems,omitempty"`
	Published int64    `json:"published"`
	Failed    int64    `json:"failed"`
	Pending   int64    `json:"pending"`
	InFlight  int64    `json:"in_flight"`
	Shards    int64    `json:"shards"`
	Lanes     int64    `json:"lanes"`
	LanesUp   int64    `json:"lanes_up"`
	OldestDue int64    `json:"oldest_due_us"`
	Window    int64    `json:"window_us"`
	Jobs      int64    `json:"jobs"`
	P50       int64    `json:"p50_us"`
	P99       int64    `json:"p99_us"`
	Max       int64    `json:"max_us"`
	// History comes last: it stays the same for several heartbeats, and PostgreSQL does not write the end of a row to its log
	// that is the same as in the version before.
	History *historyJSON `json:"history,omitempty"`
}

const (
	// mostProblems and mostProblem bound a snapshot to some hundred bytes, so that a page of the table holds the versions
	// of several heartbeats, and none is moved out of the row.
	mostProblems, mostProblem = 4, 120
	// mostSnapshot is how long a snapshot is at most, in bytes: a history is cut short for it.
	mostSnapshot = 1400
	// mostVersion is the length of a program's version at most.
	mostVersion = 64
)

// encodeSnapshot returns the text of a snapshot. It is valid JSON whatever is in it.
func encodeSnapshot(s driver.Snapshot) string {
	j := snapshotJSON{
		Ready: s.Ready, Published: s.Published, Failed: s.Failed, Pending: s.Pending, InFlight: s.InFlight, Shards: s.Shards, Lanes: s.Lanes, LanesUp: s.LanesUp,
		OldestDue: s.OldestDue.Microseconds(), Window: s.Recent.Window.Microseconds(), Jobs: s.Recent.Jobs,
		P50: s.Recent.P50.Microseconds(), P99: s.Recent.P99.Microseconds(), Max: s.Recent.Max.Microseconds(),
	}
	for _, problem := range s.Problems[:min(len(s.Problems), mostProblems)] {
		j.Problems = append(j.Problems, printable(problem, mostProblem))
	}
	text, _ := json.Marshal(j) // cannot fail: no member can
	for room := mostSnapshot - len(text); ; room -= sliceChars {
		j.History = encodeHistory(s.History, room)
		if with, _ := json.Marshal(j); j.History == nil || len(with) <= mostSnapshot {
			return string(with)
		}
	}
}

// decodeSnapshot reads what encodeSnapshot has written; nil for anything else.
func decodeSnapshot(text string) *driver.Snapshot {
	var j snapshotJSON
	if text == "" || json.Unmarshal([]byte(text), &j) != nil {
		return nil
	}
	us := func(n int64) time.Duration { return time.Duration(n) * time.Microsecond }
	return &driver.Snapshot{
		Ready: j.Ready, Problems: j.Problems, Published: j.Published, Failed: j.Failed, Pending: j.Pending, InFlight: j.InFlight, Shards: j.Shards, Lanes: j.Lanes, LanesUp: j.LanesUp,
		OldestDue: us(j.OldestDue), History: j.History.decode(), Recent: driver.Recent{Window: us(j.Window), Jobs: j.Jobs, P50: us(j.P50), P99: us(j.P99), Max: us(j.Max)},
	}
}

// printable is a text of at most so many bytes, with a question mark for what does not print. With a NUL, for example,
// PostgreSQL would take the JSON, and fail when somebody reads a part of it.
func printable(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
	if len(text) <= most {
		return text
	}
	const rest = "..."
	return strings.ToValidUTF8(text[:most-len(rest)], "") + rest
}
