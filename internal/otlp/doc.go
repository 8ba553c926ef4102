// Package otlp makes spans of messages for OpenTelemetry (driver.Tracer), and exports them by OTLP
// over HTTP [OTLP 1.x, "OTLP/HTTP"], set up by the environment variables of OpenTelemetry.
//
// The way of a span:
//
//	Begin ──► Sent … ──► End ──► queue ──► Run ──► collector
//	   (by a lane, which publishes)  │ full: dropped, and counted
//
// Nothing before the queue waits, and nothing behind it is waited for. A collector that is slow or away
// costs spans and nothing else. If the process dies, what is queued is lost; for the jobs that it had
// in flight the next owner of their lanes makes the same spans again, with the same ids.
//
// It is our own and not OpenTelemetry's SDK with its exporter, because those would make the program a
// quarter larger (docs/adr/0021-tracing.md).
package otlp
