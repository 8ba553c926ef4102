package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/job-publisher/reactor/internal/page"
	"github.com/job-publisher/reactor/reactor"
)

// instance is what is served of a Reactor.
type instance interface {
	Stats() reactor.Stats
	Health() reactor.Health
	Stalls() []reactor.Stall
}

// serveWhile serves health, metrics and the page, unless that is nil, for as long as the instance runs.
func serveWhile(ctx context.Context, at *endpoint, r *reactor.Reactor, view *page.Page, log *slog.Logger, profiles bool, more ...prometheus.Collector) error {
	server := newServer(handler(r, view, profiles, more...))
	if view != nil {
		defer view.Close()                    // waits for what it reads
		server.RegisterOnShutdown(view.Close) // ends its streams, which Shutdown waits for
	}
	if at.instead == "" {
		log.Info("serving health and metrics", "address", at.Addr().String())
	} else {
		log.Info("serving health and metrics at another address than usual", "address", at.Addr().String(), "because", at.instead)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := server.Serve(at); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		defer func() {
			shutdown, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			if server.Shutdown(shutdown) != nil {
				_ = server.Close() // ends the requests that are still being served, so that none holds up the exit
			}
		}()
		return r.Run(ctx)
	})
	return group.Wait()
}

// handler serves health and metrics, and the page and the profiles of the process if they are wanted.
func handler(r instance, view *page.Page, profiles bool, more ...prometheus.Collector) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(more...)
	registry.MustRegister(collector{r}, buildInfo(), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeLiveness(w, r.Stalls()) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { writeReadiness(w, r.Health(), r.Stats(), time.Now()) })
	if profiles {
		handleProfiles(mux)
	}
	if view != nil {
		mux.Handle("/", view)
		for _, path := range []string{"/metrics", "/healthz", "/readyz", "/debug/"} { // for other methods, and without profiles
			mux.HandleFunc(path, notOfThePage)
		}
	}
	return mux
}

// notOfThePage answers for the paths that programs ask, where the page would answer with a login.
func notOfThePage(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Allow", "GET, HEAD")
	http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
}
