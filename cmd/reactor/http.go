package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// instance is what is served of a Reactor.
type instance interface {
	Stats() reactor.Stats
	Health() reactor.Health
	Stalls() []reactor.Stall
}

// serveWhile serves health and metrics for as long as the instance runs.
func serveWhile(ctx context.Context, at *endpoint, r *reactor.Reactor, log *slog.Logger, profiles bool, more ...prometheus.Collector) error {
	server := newServer(handler(r, profiles, more...))
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
			_ = server.Shutdown(shutdown) // the exit ends requests that are still being served then
		}()
		return r.Run(ctx)
	})
	return group.Wait()
}

// handler serves health and metrics, and the profiles of the process if they are wanted.
func handler(r instance, profiles bool, more ...prometheus.Collector) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(more...)
	registry.MustRegister(collector{r}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { writeLiveness(w, r.Stalls()) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { writeReadiness(w, r.Health(), r.Stats(), time.Now()) })
	if profiles {
		handleProfiles(mux)
	}
	return mux
}

// collector provides reactor.Stats to Prometheus.
type collector struct{ r instance }

func metric(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("reactor_"+name, help, nil, nil)
}

var (
	counters = map[*prometheus.Desc]func(reactor.Stats) float64{
		metric("jobs_claimed_total", "Jobs claimed."):                                                                                      func(s reactor.Stats) float64 { return float64(s.Claimed) },
		metric("jobs_published_total", "Jobs acknowledged by the broker."):                                                                 func(s reactor.Stats) float64 { return float64(s.Published) },
		metric("jobs_refused_total", "Refusals by the broker; each job is tried again, or given up."):                                      func(s reactor.Stats) float64 { return float64(s.Refused) },
		metric("jobs_failed_total", "Jobs given up, recorded in reactor.failed_jobs."):                                                     func(s reactor.Stats) float64 { return float64(s.Failed) },
		metric("jobs_retried_total", "Jobs not published and to be tried again."):                                                          func(s reactor.Stats) float64 { return float64(s.Retried) },
		metric("jobs_quarantined_total", "Jobs that could not be claimed because of their own row."):                                       func(s reactor.Stats) float64 { return float64(s.Quarantined) },
		metric("jobs_expired_total", "Jobs that failed because their expires_at had passed."):                                              func(s reactor.Stats) float64 { return float64(s.Expired) },
		metric("jobs_missed_total", "Jobs that failed because they were later than is allowed."):                                           func(s reactor.Stats) float64 { return float64(s.Missed) },
		metric("jobs_returned_total", "Jobs handed back unsent by a stop."):                                                                func(s reactor.Stats) float64 { return float64(s.Returned) },
		metric("throttled_total", "Messages that the broker refused because its quota was exceeded; sent again, more slowly."):             func(s reactor.Stats) float64 { return float64(s.Throttled) },
		metric("outcomes_unknown_total", "Messages that were in flight when the broker lost its session state."):                           func(s reactor.Stats) float64 { return float64(s.OutcomesUnknown) },
		metric("jobs_recovered_total", "Jobs found unsettled in the journal of a lane."):                                                   func(s reactor.Stats) float64 { return float64(s.Recovered) },
		metric("jobs_launched_total", "Jobs handed to a lane at their time."):                                                              func(s reactor.Stats) float64 { return float64(s.Lateness.Count) },
		metric("launch_lateness_seconds_total", "Sum over launched jobs of the time since fire_at, a minute at most."):                     func(s reactor.Stats) float64 { return s.Lateness.Sum.Seconds() },
		metric("lateness_seconds_total", "Sum over published jobs of the time from fire_at to the broker's acceptance, a minute at most."): func(s reactor.Stats) float64 { return s.Accepted.Sum.Seconds() },
		metric("loads_total", "Reads of the table."):                                                                                       func(s reactor.Stats) float64 { return float64(s.Loads) },
		metric("claims_total", "Claims."):                                                                                                  func(s reactor.Stats) float64 { return float64(s.Claim.Count) },
		metric("claim_seconds_total", "Sum of the durations of claims."):                                                                   func(s reactor.Stats) float64 { return s.Claim.Sum.Seconds() },
		metric("claims_unknown_total", "Claims with an unknown outcome, which had to be resolved."):                                        func(s reactor.Stats) float64 { return float64(s.UnknownClaims) },
		metric("settlements_total", "Settlements."):                                                                                        func(s reactor.Stats) float64 { return float64(s.Settle.Count) },
		metric("ack_seconds_total", "Sum over published jobs of the time from PUBLISH to the broker's answer."):                            func(s reactor.Stats) float64 { return s.Ack.Sum.Seconds() },
		metric("feed_losses_total", "How often the feed of new jobs was lost."):                                                            func(s reactor.Stats) float64 { return float64(s.FeedLosses) },
		metric("settle_seconds_total", "Sum of the durations of settlements."):                                                             func(s reactor.Stats) float64 { return s.Settle.Sum.Seconds() },
	}
	gauges = map[*prometheus.Desc]func(reactor.Stats) float64{
		metric("jobs_pending", "Jobs waiting in memory for their time."):                                                           func(s reactor.Stats) float64 { return float64(s.Pending) },
		metric("jobs_in_flight", "Jobs claimed and not settled."):                                                                  func(s reactor.Stats) float64 { return float64(s.InFlight) },
		metric("shards", "Shards owned, of 64."):                                                                                   func(s reactor.Stats) float64 { return float64(s.Shards) },
		metric("lanes_up", "Connections to the broker that are established."):                                                      func(s reactor.Stats) float64 { return float64(s.LanesUp) },
		metric("lanes_staging", "Connections to the broker over which messages are sent before their time, to be released at it."): func(s reactor.Stats) float64 { return float64(s.LanesStaging) },
		metric("lead_seconds", "How long before fire_at jobs are claimed."):                                                        func(s reactor.Stats) float64 { return s.Lead.Seconds() },
		metric("clock_error_seconds", "Largest possible error of our estimate of the database's clock."):                           func(s reactor.Stats) float64 { return s.ClockBound.Seconds() },
		metric("lateness_max_seconds", "Largest time from fire_at to the broker's acceptance so far, a minute at most."):           func(s reactor.Stats) float64 { return s.Accepted.Max.Seconds() },
		metric("launch_lateness_max_seconds", "Largest lateness of a launched job so far, a minute at most."):                      func(s reactor.Stats) float64 { return s.Lateness.Max.Seconds() },
		metric("oldest_due_seconds", "How long the oldest job in this instance has been due that the broker has not accepted."):    func(s reactor.Stats) float64 { return s.OldestDue.Seconds() },
		metric("jobs_in_quarantine", "Jobs that cannot be claimed because of their own row."):                                      func(s reactor.Stats) float64 { return float64(s.InQuarantine) },
		metric("lanes_contested", "Connections to the broker given up because another client uses their sessions."):                func(s reactor.Stats) float64 { return float64(s.Contested) },
		metric("feed_lag_bytes", "How much the server keeps of its log for the WAL feed of this instance."):                        func(s reactor.Stats) float64 { return float64(s.Feed.LagBytes) },
		metric("feed_lag_seconds", "Age of the part of the log that the WAL feed reads."):                                          func(s reactor.Stats) float64 { return s.Feed.Lag.Seconds() },
		metric("last_beat_seconds", "Time since the last heartbeat that the database answered; negative: none yet."):               func(s reactor.Stats) float64 { return s.LastBeat.Seconds() },
		metric("last_load_seconds", "Time since the last read of the table; negative: none yet."):                                  func(s reactor.Stats) float64 { return s.LastLoad.Seconds() },
		metric("last_claim_seconds", "Time since the last claim of any jobs; negative: none yet."):                                 func(s reactor.Stats) float64 { return s.LastClaim.Seconds() },
		metric("last_settlement_seconds", "Time since the last settlement; negative: none yet."):                                   func(s reactor.Stats) float64 { return s.LastSettle.Seconds() },
		metric("last_accepted_seconds", "Time since the broker last accepted a message; negative: never."):                         func(s reactor.Stats) float64 { return s.LastAccepted.Seconds() },
		metric("ready", "1 while due jobs are published, as /readyz says."): func(s reactor.Stats) float64 {
			if s.Health().Ready {
				return 1
			}
			return 0
		},
		metric("feed_up", "1 while new jobs are announced, 0 while only the sweep finds them."): func(s reactor.Stats) float64 {
			if s.FeedUp {
				return 1
			}
			return 0
		},
	}
)

// feedKind has one series for each kind of feed.
var feedKind = prometheus.NewDesc("reactor_feed", "1 for each feed that announces new jobs to this instance.", []string{"kind"}, nil)

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := c.r.Stats()
	for desc, value := range counters {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, value(s))
	}
	for desc, value := range gauges {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value(s))
	}
	heard := strings.Split(s.Feed.Kind, ",")
	for _, kind := range []pgsource.Feed{pgsource.FeedNotify, pgsource.FeedWAL, pgsource.FeedPoll} {
		value := 0.0
		if slices.Contains(heard, kind.String()) {
			value = 1
		}
		ch <- prometheus.MustNewConstMetric(feedKind, prometheus.GaugeValue, value, kind.String())
	}
}
