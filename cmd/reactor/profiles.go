package main

import (
	"fmt"
	"net/http"
	"runtime/pprof"
	"runtime/trace"
	"strconv"
	"time"
)

// net/http/pprof is not used, for two reasons: it serves the command line, which may contain a
// password, and it registers itself in a global mux. What `go tool pprof` and `go tool trace` ask
// for is little.

const (
	usualProfileTime = 30 * time.Second
	maxProfileTime   = 5 * time.Minute
)

// handleProfiles serves the profiles of the process below /debug/pprof/.
func handleProfiles(mux *http.ServeMux) {
	mux.HandleFunc("GET /debug/pprof/{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "profile?seconds=30\ntrace?seconds=1")
		for _, p := range pprof.Profiles() {
			fmt.Fprintln(w, p.Name())
		}
	})
	mux.HandleFunc("GET /debug/pprof/profile", func(w http.ResponseWriter, r *http.Request) {
		record(w, r, usualProfileTime, func() error { return pprof.StartCPUProfile(w) }, pprof.StopCPUProfile)
	})
	mux.HandleFunc("GET /debug/pprof/trace", func(w http.ResponseWriter, r *http.Request) {
		record(w, r, time.Second, func() error { return trace.Start(w) }, trace.Stop)
	})
	mux.HandleFunc("GET /debug/pprof/{name}", func(w http.ResponseWriter, r *http.Request) {
		profile := pprof.Lookup(r.PathValue("name"))
		if profile == nil {
			http.Error(w, "there is no such profile: see /debug/pprof/", http.StatusNotFound)
			return
		}
		debug, _ := strconv.Atoi(r.FormValue("debug")) // 0, the binary form, if it is no number
		if debug == 0 {
			binary(w)
		} else {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		}
		_ = profile.WriteTo(w, debug) // it fails only if the client is gone
	})
}

// record records for as long as the request says.
func record(w http.ResponseWriter, r *http.Request, usual time.Duration, start func() error, stop func()) {
	length := usual
	if text := r.FormValue("seconds"); text != "" {
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil || seconds <= 0 || seconds > maxProfileTime.Seconds() {
			http.Error(w, fmt.Sprintf("seconds must be a number above 0, up to %v", maxProfileTime.Seconds()), http.StatusBadRequest)
			return
		}
		length = time.Duration(seconds * float64(time.Second))
	}
	// The server's limits are for short answers. The one for reading would end the request, too.
	until := time.Now().Add(length + httpWriteTimeout)
	control := http.NewResponseController(w)
	_, _ = control.SetReadDeadline(until), control.SetWriteDeadline(until) // errors show when the answer is written
	binary(w)
	if err := start(); err != nil {
		w.Header().Del("Content-Disposition")
		http.Error(w, err.Error()+": another one is being recorded (--cpu-profile does for the whole run)", http.StatusConflict)
		return
	}
	defer stop()
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-r.Context().Done():
	case <-timer.C:
	}
}

func binary(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", "attachment")
}
