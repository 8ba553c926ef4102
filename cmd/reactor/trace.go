package main

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/job-publisher/reactor/internal/otlp"
	"github.com/job-publisher/reactor/pgsource"
)

// newTracer returns what makes and exports spans, or nil for no traces. Its errors are about the variables of
// OpenTelemetry.
func (c *runCommand) newTracer(log *slog.Logger) (*otlp.Tracer, error) {
	if !c.Trace {
		return nil, nil
	}
	instance := c.Name
	if instance == "" {
		instance = pgsource.Defaults().Name
	}
	cfg, on, err := otlp.FromEnvironment(os.Getenv, otlp.Program{Version: versionName(), Instance: instance})
	if err != nil {
		return nil, err
	}
	if !on {
		log.Warn("the environment turns traces off (OTEL_SDK_DISABLED or OTEL_TRACES_EXPORTER); --trace has no effect")
		return nil, nil
	}
	if !strings.Contains(string(c.MQTTURL), ",") { // a span does not say at which of several its message was
		cfg.Broker = otlp.BrokerAt(string(c.MQTTURL))
	}
	return otlp.New(cfg, log), nil
}

// export exports spans until stop is called, which waits for the last ones, for some seconds at most. The
// context of the run does not end it: the jobs that are in flight at a stop have spans as well.
func export(ctx context.Context, tracer *otlp.Tracer) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { tracer.Run(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}

// spanCollector provides the tracer's counts to Prometheus.
type spanCollector struct{ tracer *otlp.Tracer }

var (
	spansExported = metric("spans_exported_total", "Spans that the collector has accepted.")
	spansDropped  = metric("spans_dropped_total", "Spans that were lost: the queue was full, or the collector did not accept them.")
)

// Describe implements prometheus.Collector.
func (spanCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- spansExported
	ch <- spansDropped
}

// Collect implements prometheus.Collector.
func (c spanCollector) Collect(ch chan<- prometheus.Metric) {
	exported, dropped := c.tracer.Counts()
	ch <- prometheus.MustNewConstMetric(spansExported, prometheus.CounterValue, float64(exported))
	ch <- prometheus.MustNewConstMetric(spansDropped, prometheus.CounterValue, float64(dropped))
}
