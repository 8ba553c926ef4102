package otlp

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/job-publisher/reactor/internal/otlptest"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor/driver"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	traceID     = "4bf92f3577b34da6a3ce929d0e0e4736"
	parentID    = "00f067aa0ba902b7"
	traceparent = "00-" + traceID + "-" + parentID + "-01"
	second      = driver.DBTime(time.Second / time.Microsecond)
	fireAt      = 1_700_000_000 * second
)

// rig is a tracer whose spans go to a collector.
type rig struct {
	*Tracer
	t         *testing.T
	ctx       context.Context
	collector *otlptest.Collector
	log       lines
	end       func() // tells Run to end
	stop      func() // does so, and waits for it
}

// lines is a log.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(text)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

// newRig starts a tracer with these variables.
func newRig(t *testing.T, variables map[string]string) *rig {
	t.Helper()
	r := &rig{t: t, collector: otlptest.NewCollector(t)}
	all := map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": r.collector.URL, "OTEL_BSP_SCHEDULE_DELAY": "5"}
	for name, value := range variables {
		all[name] = value
	}
	cfg, _, err := fromEnvironment(all)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Broker = Broker{"broker", 1883}
	r.Tracer = New(cfg, slog.New(slog.NewTextHandler(&r.log, nil)))
	r.pause = time.Millisecond
	var cancel context.CancelFunc
	r.ctx, cancel = context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	ctx, end := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	r.end = end
	r.stop = func() {
		end()
		running.Wait()
	}
	t.Cleanup(r.stop)
	return r
}

func withHeaders(pairs ...string) driver.Job {
	job := driver.Job{ID: 42, Topic: "lamp/7", Payload: []byte("on"), FireAt: fireAt}
	for i := 0; i < len(pairs); i += 2 {
		job.Properties = job.Properties.WithUser(pairs[i], pairs[i+1])
	}
	return job
}

func claimOf(token byte) driver.SpanClaim {
	return driver.SpanClaim{Token: [16]byte{token}, ClientID: "reactor-1", At: fireAt - second/100}
}

// publish makes n spans of messages that the broker has accepted.
func (r *rig) publish(n int) {
	for range n {
		job := withHeaders("traceparent", traceparent)
		s := r.Begin(&job, claimOf(1))
		s.Sent()
		s.End(fireAt+second/1000, nil)
	}
}

// counted waits until so many spans were exported and dropped in all.
func (r *rig) counted(exported, dropped int64) {
	r.t.Helper()
	for tick := time.NewTicker(time.Millisecond); ; {
		gotExported, gotDropped := r.Counts()
		if gotExported == exported && gotDropped == dropped {
			return
		}
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			r.t.Fatalf("exported %d, dropped %d, want %d and %d", gotExported, gotDropped, exported, dropped)
		}
	}
}

func TestExport(t *testing.T) {
	t.Parallel()
	for _, compression := range []string{"none", "gzip"} {
		t.Run(compression, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, map[string]string{"OTEL_EXPORTER_OTLP_HEADERS": "api-key=s3cret", "OTEL_EXPORTER_OTLP_COMPRESSION": compression})
			job := withHeaders("traceparent", traceparent, "tracestate", "vendor=1", "unit", "kWh")
			s := r.Begin(&job, claimOf(1))
			s.Sent()
			s.Sent()
			s.End(fireAt+second/4, nil)
			got := r.collector.WaitSpans(r.ctx, 1)[0]
			request := r.collector.Requests()[0]
			if request.URL.Path != "/v1/traces" || request.Method != http.MethodPost || request.Header.Get("Content-Type") != "application/x-protobuf" || request.Header.Get("Api-Key") != "s3cret" {
				t.Errorf("%s %s, %v", request.Method, request.URL, request.Header)
			}
			ours, ok := parseTraceparent(mustHeader(t, &job, "traceparent"))
			if !ok || hex.EncodeToString(ours.trace[:]) != traceID || hex.EncodeToString(ours.span[:]) == parentID || ours.flags != flagSampled {
				t.Errorf("the message carries %v", ours)
			}
			if mustHeader(t, &job, "tracestate") != "vendor=1" || mustHeader(t, &job, "unit") != "kWh" || len(job.Properties.User) != 3 {
				t.Errorf("the other headers are %v", job.Properties.User)
			}
			if hex.EncodeToString(got.TraceId) != traceID || hex.EncodeToString(got.ParentSpanId) != parentID || !bytes.Equal(got.SpanId, ours.span[:]) || got.TraceState != "vendor=1" || got.Flags != 0x301 {
				t.Errorf("the span is %v", got)
			}
			if got.Name != "publish lamp/7" || got.Kind != tracepb.Span_SPAN_KIND_PRODUCER || got.Status.GetCode() != tracepb.Status_STATUS_CODE_UNSET ||
				got.StartTimeUnixNano != uint64(1_700_000_000_000_000_000) || got.EndTimeUnixNano != uint64(1_700_000_000_250_000_000) {
				t.Errorf("the span is %v", got)
			}
			same(t, got.Attributes, map[string]any{
				"messaging.system": "mqtt", "messaging.operation.type": "send", "messaging.operation.name": "publish", "messaging.destination.name": "lamp/7",
				"messaging.message.id": "42", "messaging.client.id": "reactor-1", "messaging.message.body.size": int64(2),
				"server.address": "broker", "server.port": int64(1883),
				"reactor.lateness": 0.25, "reactor.sends": int64(2), "reactor.outcome": "acked",
			})
			if got.Resource["service.name"] != "reactor" || got.Resource["service.instance.id"] != "host:7" || got.Resource["reactor.instance"] != "host:7" {
				t.Errorf("the resource is %v", got.Resource)
			}
			r.counted(1, 0)
		})
	}
}

func mustHeader(t *testing.T, job *driver.Job, name string) string {
	t.Helper()
	value, ok := header(job.Properties, name)
	if !ok {
		t.Errorf("there is no header %s", name)
	}
	return value
}

func same(t *testing.T, got, want map[string]any) {
	t.Helper()
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s is %v, want %v", name, got[name], value)
		}
	}
	for name, value := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s is %v, and should not be there", name, value)
		}
	}
}

// TestOutcomes: what became of the message is in attributes and status.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	r := newRig(t, map[string]string{"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1"})
	for n, test := range []struct {
		failure       driver.Failure
		outcome, kind string
		code          any
	}{
		{driver.Failure{Code: 0x87, Reason: "not authorized"}, "refused", "0x87", int64(0x87)},
		{driver.Failure{Reason: "expired at …", State: driver.Expired, Final: true}, "expired", "expired", nil},
		{driver.Failure{Reason: "missed: …", State: driver.Missed, Final: true}, "missed", "missed", nil},
		{driver.Failure{Reason: "outcome \xff unknown"}, "failed", "failed", nil},
		{driver.Failure{Code: driver.CodeUnknownSlot, Reason: "outcome unknown"}, "failed", "0x92", int64(0x92)},
	} {
		job := withHeaders("traceparent", traceparent)
		r.Begin(&job, claimOf(1)).End(fireAt-second/1000, &test.failure)
		got := r.collector.WaitSpans(r.ctx, n+1)[n]
		if got.Attributes["reactor.outcome"] != test.outcome || got.Attributes["error.type"] != test.kind || got.Attributes["reactor.reason_code"] != test.code ||
			got.Status.Code != tracepb.Status_STATUS_CODE_ERROR || got.Status.Message != strings.ToValidUTF8(test.failure.Reason, "\uFFFD") {
			t.Errorf("%+v is %v with status %v", test.failure, got.Attributes, got.Status)
		}
		if got.StartTimeUnixNano > got.EndTimeUnixNano { // it has failed before its time
			t.Errorf("it begins at %d and ends at %d", got.StartTimeUnixNano, got.EndTimeUnixNano)
		}
	}
}

// TestBegin: which jobs get a span, with each sampler.
func TestBegin(t *testing.T) {
	const notSampled = "00-" + traceID + "-" + parentID + "-00"
	for sampler, want := range map[string]struct{ sampled, notSampled, none bool }{
		"":                       {sampled: true},
		"parentbased_always_on":  {sampled: true, none: true},
		"parentbased_always_off": {sampled: true},
		"always_on":              {sampled: true, notSampled: true, none: true},
		"always_off":             {},
	} {
		cfg, _, err := fromEnvironment(map[string]string{"OTEL_TRACES_SAMPLER": sampler})
		if err != nil {
			t.Fatal(err)
		}
		tracer := New(cfg, nil)
		for name, test := range map[string]struct {
			job  driver.Job
			want bool
		}{
			"sampled":     {withHeaders("traceparent", traceparent), want.sampled},
			"not sampled": {withHeaders("traceparent", notSampled), want.notSampled},
			"no headers":  {withHeaders(), want.none},
			"another":     {withHeaders("unit", "kWh"), want.none},
			"broken":      {withHeaders("traceparent", "00-abc-def-01"), false},
			"empty":       {withHeaders("traceparent", ""), false},
		} {
			before := test.job.Properties
			s := tracer.Begin(&test.job, claimOf(1))
			if (s != nil) != test.want {
				t.Errorf("%s, %s: a span: %v, want %v", sampler, name, s != nil, test.want)
			}
			if s == nil && test.job.Properties != before {
				t.Errorf("%s, %s: a job without a span was changed", sampler, name)
			}
			if s != nil && test.job.Properties == before {
				t.Errorf("%s, %s: the job's own properties were changed", sampler, name)
			}
		}
	}
}

// TestIDs: they depend on the claim and the job alone, so whoever recovers the job makes the same span.
func TestIDs(t *testing.T) {
	cfg, _, err := fromEnvironment(map[string]string{"OTEL_TRACES_SAMPLER": "always_on"})
	if err != nil {
		t.Fatal(err)
	}
	context := func(token byte, id int64, headers ...string) string {
		job := withHeaders(headers...)
		job.ID = id
		New(cfg, nil).Begin(&job, claimOf(token))
		return mustHeader(t, &job, "traceparent")
	}
	first := context(1, 1)
	if _, ok := parseTraceparent(first); !ok {
		t.Errorf("%q is no traceparent", first)
	}
	if again := context(1, 1); again != first {
		t.Errorf("the same job of the same claim: %s, then %s", first, again)
	}
	for _, other := range []string{context(2, 1), context(1, 2)} {
		if other[3:35] == first[3:35] || other[36:52] == first[36:52] {
			t.Errorf("another job or claim shares ids: %s and %s", first, other)
		}
	}
	if child := context(1, 1, "traceparent", traceparent); child[:36] != traceparent[:36] || child[36:52] != first[36:52] {
		t.Errorf("the child of %s is %s", traceparent, child)
	}
}

// TestTriesAgain: a collector that is busy gets the same spans again, once each.
func TestTriesAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	codes := []int{http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusGatewayTimeout}
	r.collector.Answer(func(n int) (int, http.Header, []byte) {
		if n <= len(codes) {
			return codes[n-1], nil, []byte("busy")
		}
		return http.StatusOK, nil, nil
	})
	r.publish(3)
	r.counted(3, 0)
	if n := len(r.collector.Spans()); n != 3 {
		t.Errorf("%d spans, want 3", n)
	}
	for _, text := range []string{"503 Service Unavailable: busy", "cannot export spans; jobs are published all the same", "exporting spans again"} {
		if r.log.count(text) == 0 {
			t.Errorf("the log does not say %q", text)
		}
	}
}

// TestRefuses: what the collector does not want is dropped, counted and said once, and what follows is exported.
func TestRefuses(t *testing.T) {
	t.Parallel()
	r := newRig(t, map[string]string{"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2"})
	partial, err := proto.Marshal(&collectorpb.ExportTraceServiceResponse{PartialSuccess: &collectorpb.ExportTracePartialSuccess{RejectedSpans: 1}})
	if err != nil {
		t.Fatal(err)
	}
	r.collector.Answer(func(n int) (int, http.Header, []byte) {
		switch n {
		case 1, 2:
			return http.StatusBadRequest, nil, []byte("what?")
		case 3:
			return http.StatusMovedPermanently, http.Header{"Location": {"/elsewhere"}}, nil
		case 4:
			return http.StatusOK, nil, partial
		}
		return http.StatusOK, nil, []byte("not protobuf")
	})
	for _, counts := range [][2]int64{{0, 2}, {0, 4}, {0, 6}, {1, 7}, {3, 7}} {
		r.publish(2)
		r.counted(counts[0], counts[1])
	}
	r.stop()
	if n := r.log.count("400 Bad Request: what?"); n != 1 {
		t.Errorf("%d lines about the same refusal, want 1", n)
	}
	if n := r.log.count("301 Moved Permanently"); n != 1 {
		t.Errorf("%d lines about the redirection, want 1", n)
	}
	if n := r.log.count(`msg="spans were dropped in this run" dropped=7 exported=3`); n != 1 {
		t.Errorf("%d lines count the dropped spans", n)
	}
}

// TestSlowCollector: while the collector does not answer, spans are made all the same; what does not fit into the
// queue is dropped and counted, and what is in it is exported when the collector answers.
func TestSlowCollector(t *testing.T) {
	t.Parallel()
	const queue, more = 100, 50
	r := newRig(t, map[string]string{"OTEL_BSP_MAX_QUEUE_SIZE": "100", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10"})
	answer := make(chan struct{})
	r.collector.Answer(func(int) (int, http.Header, []byte) {
		<-answer
		return http.StatusOK, nil, nil
	})
	r.publish(10)
	r.collector.WaitRequests(r.ctx, 1)
	r.publish(queue - 10 + more)
	r.counted(0, more)
	close(answer)
	r.counted(queue, more)
	if n := r.log.count("spans were dropped: "); n != 1 {
		t.Errorf("%d lines about dropped spans, want 1", n)
	}
}

// TestStop: what is in the queue at the end is exported, and a collector that is away, or does not answer, does
// not keep the program from ending.
func TestStop(t *testing.T) {
	t.Parallel()
	t.Run("exports the rest", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, map[string]string{"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "7"})
		r.publish(20)
		r.stop()
		r.counted(20, 0)
		if n := len(r.collector.Spans()); n != 20 {
			t.Errorf("%d spans", n)
		}
	})
	t.Run("finishes the request under way", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, nil)
		answer := make(chan struct{})
		r.collector.Answer(func(int) (int, http.Header, []byte) {
			<-answer
			return http.StatusOK, nil, nil
		})
		r.publish(1)
		r.collector.WaitRequests(r.ctx, 1)
		r.end()
		close(answer)
		r.stop()
		r.counted(1, 0)
		if n := len(r.collector.Spans()); n != 1 {
			t.Errorf("%d spans, want 1", n)
		}
	})
	t.Run("away", func(t *testing.T) {
		t.Parallel()
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listener.Close()
		r := newRig(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:s3cret@" + listener.Addr().String(), "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "7"})
		r.publish(20)
		r.stop()
		r.counted(0, 20)
		if r.log.count("connection refused") == 0 || r.log.count("s3cret") > 0 {
			t.Errorf("the log is\n%s", r.log.text.String())
		}
	})
	t.Run("does not answer", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, nil)
		answer := make(chan struct{})
		t.Cleanup(func() { close(answer) })
		r.collector.Answer(func(int) (int, http.Header, []byte) {
			<-answer
			return http.StatusOK, nil, nil
		})
		r.publish(20)
		r.collector.WaitRequests(r.ctx, 1)
		begun := time.Now()
		r.stop()
		if took := time.Since(begun); took > farewell+10*time.Second {
			t.Errorf("the end took %v", took)
		}
		r.counted(0, 20)
	})
}

// BenchmarkExport is what a span costs the exporter's goroutine before it is sent. An op is one span.
func BenchmarkExport(b *testing.B) {
	cfg, _, err := fromEnvironment(nil)
	if err != nil {
		b.Fatal(err)
	}
	tracer := New(cfg, slog.New(slog.DiscardHandler))
	for range cfg.BatchSpans {
		job := withHeaders("traceparent", traceparent)
		tracer.Begin(&job, claimOf(1)).End(fireAt, nil)
	}
	spans, e := tracer.queue.first(), &exporter{tracer: tracer}
	b.ReportAllocs()
	for done := 0; done < b.N; done += len(spans) {
		if _, err := e.request(b.Context(), spans); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSpan is what a traced job costs its lane. The queue is full all the time, so this is without the
// export.
func BenchmarkSpan(b *testing.B) {
	cfg, _, err := fromEnvironment(nil)
	if err != nil {
		b.Fatal(err)
	}
	for name, job := range map[string]driver.Job{"traced": withHeaders("traceparent", traceparent), "no header": withHeaders("unit", "kWh")} {
		b.Run(name, func(b *testing.B) {
			tracer := New(cfg, slog.New(slog.DiscardHandler))
			b.ReportAllocs()
			for b.Loop() {
				job := job
				if s := tracer.Begin(&job, claimOf(1)); s != nil {
					s.Sent()
					s.End(fireAt, nil)
				}
			}
		})
	}
}

// TestTLS: the collector's certificate is checked against the given authority, and we show ours.
func TestTLS(t *testing.T) {
	t.Parallel()
	collector := otlptest.NewCollector(t)
	server := httptest.NewUnstartedServer(collector)
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.Config.ErrorLog = slog.NewLogLogger(testkit.Logger(t).Handler(), slog.LevelDebug)
	server.StartTLS()
	t.Cleanup(server.Close)
	certificate, key := filepath.Join(t.TempDir(), "certificate.pem"), filepath.Join(t.TempDir(), "key.pem")
	private, err := x509.MarshalPKCS8PrivateKey(server.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, certificate, "CERTIFICATE", server.Certificate().Raw)
	writePEM(t, key, "PRIVATE KEY", private)
	for name, test := range map[string]struct {
		variables map[string]string
		exported  int64
	}{
		"unknown authority": {nil, 0},
		"no certificate":    {map[string]string{"OTEL_EXPORTER_OTLP_CERTIFICATE": certificate}, 0},
		"both":              {map[string]string{"OTEL_EXPORTER_OTLP_CERTIFICATE": certificate, "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": certificate, "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY": key}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			variables := map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": server.URL}
			maps.Copy(variables, test.variables)
			r := newRig(t, variables)
			r.publish(1)
			r.stop()
			r.counted(test.exported, 1-test.exported)
		})
	}
	if n := len(collector.Spans()); n != 1 {
		t.Errorf("%d spans, want 1", n)
	}
}

func writePEM(t *testing.T, name, kind string, bytes []byte) {
	t.Helper()
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}), 0o600); err != nil {
		t.Fatal(err)
	}
}
