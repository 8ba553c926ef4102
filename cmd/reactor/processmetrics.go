package main

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/job-publisher/reactor/pgsource"
)

var (
	connections       = metric("database_connections", "Connections to the database, without that of the feed: in use, idle, being opened or closed.", "state")
	mostConnections   = metric("database_connections_max", "How many connections to the database there may be, without that of the feed.")
	waitingStatements = metric("database_statements_waiting", "Statements that wait for a connection.")
)

// poolCollector provides the pool's state to Prometheus.
type poolCollector struct{ source *pgsource.Source }

// Describe implements prometheus.Collector.
func (poolCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- connections
	ch <- mostConnections
	ch <- waitingStatements
}

// Collect implements prometheus.Collector.
func (c poolCollector) Collect(ch chan<- prometheus.Metric) {
	p := c.source.PoolStats()
	for state, n := range map[string]int{"in_use": p.Open - p.Idle, "idle": p.Idle, "opening": p.Opening, "closing": p.Closing} {
		ch <- prometheus.MustNewConstMetric(connections, prometheus.GaugeValue, float64(n), state)
	}
	ch <- prometheus.MustNewConstMetric(mostConnections, prometheus.GaugeValue, float64(p.Most))
	ch <- prometheus.MustNewConstMetric(waitingStatements, prometheus.GaugeValue, float64(p.Waiting))
}

// buildInfo is a metric that says which program this is.
func buildInfo() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "reactor_build_info", Help: "1, labelled with what this program was built from.",
		ConstLabels: prometheus.Labels{"version": versionName(), "revision": revision(), "goversion": runtime.Version()},
	}, func() float64 { return 1 })
}
