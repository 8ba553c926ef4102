package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/reactor"
)

// readiness is the answer of /readyz.
type readiness struct {
	// Status is "ok", "degraded" (due jobs are published all the same) or "not ready".
	Status   string          `json:"status"`
	Problems []string        `json:"problems,omitempty"`
	Parts    map[string]part `json:"parts"`
	Stats    reactor.Stats   `json:"stats"`
}

// part is the state of one of the things that publishing depends on.
type part struct {
	State    reactor.State `json:"state"` // "ok", "degraded" or "failing"
	Since    time.Time     `json:"since"` // on this host's clock, to about a second
	Seconds  float64       `json:"seconds"`
	Problems []string      `json:"problems,omitempty"`
}

// writeReadiness answers whether due jobs are published: with 200, or with 503 if they are not.
func writeReadiness(w http.ResponseWriter, judged reactor.Health, stats reactor.Stats, now time.Time) {
	stats.Feed.Problem = cli.InFlagTerms(stats.Feed.Problem)
	answer := readiness{Status: "ok", Problems: cli.TextsInFlagTerms(judged.Problems), Parts: map[string]part{}, Stats: stats}
	for _, p := range judged.Parts {
		answer.Parts[p.Name] = part{p.State, now.Add(-p.For).UTC().Truncate(time.Millisecond), p.For.Round(time.Millisecond).Seconds(), cli.TextsInFlagTerms(p.Problems)}
	}
	code := http.StatusOK
	switch {
	case !judged.Ready:
		answer.Status, code = "not ready", http.StatusServiceUnavailable
	case len(answer.Problems) > 0:
		answer.Status = "degraded"
	}
	answerJSON(w, code, answer)
}

// liveness is the answer of /healthz.
type liveness struct {
	Status   string   `json:"status"` // "ok" or "stalled"
	Problems []string `json:"problems,omitempty"`
}

// writeLiveness answers whether the process goes on: with 200, or with 503 if only a restart helps.
func writeLiveness(w http.ResponseWriter, stalls []reactor.Stall) {
	answer, code := liveness{Status: "ok"}, http.StatusOK
	for _, s := range stalls {
		answer.Status, code = "stalled", http.StatusServiceUnavailable
		answer.Problems = append(answer.Problems, fmt.Sprintf("the %s has not gone on for %v", s.Part, s.For.Round(time.Second)))
	}
	answerJSON(w, code, answer)
}

func answerJSON(w http.ResponseWriter, code int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(answer) // it fails only if the client is gone
}
