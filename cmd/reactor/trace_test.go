package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	"github.com/jackc/pgx/v5"
	tracepb "go.opentelemetry.io/proto/slim/otlp/trace/v1"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/otlptest"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
)

const (
	traceID     = "4bf92f3577b34da6a3ce929d0e0e4736"
	parentID    = "00f067aa0ba902b7"
	traceparent = "00-" + traceID + "-" + parentID + "-01"
)

// consumer is a subscriber that keeps whole messages, by the job's id.
type consumer struct {
	mu       sync.Mutex
	messages map[int64][]*paho.Publish // guarded by mu
	changed  chan struct{}             // guarded by mu: closed and replaced at each message
}

func consume(t *testing.T, ctx context.Context, url, filter string) *consumer {
	t.Helper()
	c := &consumer{messages: map[int64][]*paho.Publish{}, changed: make(chan struct{})}
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "mqtt://"))
	if err != nil {
		t.Fatal(err)
	}
	client := paho.NewClient(paho.ClientConfig{Conn: conn, OnPublishReceived: []func(paho.PublishReceived) (bool, error){
		func(m paho.PublishReceived) (bool, error) {
			id, _ := strconv.ParseInt(m.Packet.Properties.User.Get("job-id"), 10, 64)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.messages[id] = append(c.messages[id], m.Packet)
			close(c.changed)
			c.changed = make(chan struct{})
			return true, nil
		},
	}})
	if _, err := client.Connect(ctx, &paho.Connect{ClientID: "consumer", CleanStart: true, KeepAlive: 60}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Disconnect(&paho.Disconnect{}) })
	if _, err := client.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: filter, QoS: 2}}}); err != nil {
		t.Fatal(err)
	}
	return c
}

// wait waits for n messages of a job.
func (c *consumer) wait(t *testing.T, ctx context.Context, id int64, n int) []*paho.Publish {
	t.Helper()
	for {
		c.mu.Lock()
		got, changed := c.messages[id], c.changed
		c.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("job %d: %d messages, want %d", id, len(got), n)
		}
	}
}

// one waits for the message of a job, and returns one of its user properties.
func (c *consumer) one(t *testing.T, ctx context.Context, id int64, property string) string {
	t.Helper()
	return c.wait(t, ctx, id, 1)[0].Properties.User.Get(property)
}

// traced is the environment of an instance that exports to a collector, soon.
func traced(collector string, more ...string) []string {
	return append([]string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + collector, "OTEL_BSP_SCHEDULE_DELAY=50"}, more...)
}

// startTraced runs an instance with --trace, and with variables.
func startTraced(t *testing.T, database, broker string, env []string, args ...string) *testkit.Process {
	t.Helper()
	return testkit.Run(t, testkit.ProcessConfig{
		Path: testkit.Reactor(t), Args: append([]string{"run", "--trace"}, args...),
		Env: append([]string{"REACTOR_DATABASE_URL=" + database, "REACTOR_MQTT_URL=" + broker}, env...),
	})
}

// insert inserts a job that is due in a moment, with headers as a JSON text, and returns its id and its fire_at.
func insert(t *testing.T, ctx context.Context, db *pgx.Conn, topic, headers string) (id int64, fireAt time.Time) {
	t.Helper()
	err := db.QueryRow(ctx, `INSERT INTO jobs (topic, payload, fire_at, headers) VALUES ($1, 'on', clock_timestamp() + interval '100 ms', nullif($2, '')::jsonb)
		RETURNING id, fire_at`, topic, headers).Scan(&id, &fireAt)
	if err != nil {
		t.Fatal(err)
	}
	return id, fireAt
}

func stop(t *testing.T, p *testkit.Process) {
	t.Helper()
	p.Terminate(t)
	if code := p.Wait(t, 30*time.Second); code != 0 {
		t.Errorf("a clean stop exits with %d:\n%s", code, p.Output())
	}
}

// spansOf are the spans of a job.
func spansOf(spans []otlptest.Span, id int64) (list []otlptest.Span) {
	for _, s := range spans {
		if s.Attributes["messaging.message.id"] == strconv.FormatInt(id, 10) {
			list = append(list, s)
		}
	}
	return list
}

// TestTrace: a job whose traceparent is sampled gets a span, whose context its message carries. All others
// are published as they are.
func TestTrace(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"--delivery", "exactly-once"}, {"--delivery", "exactly-once", "--stage", "off"}, {"--delivery", "at-least-once"}, {"--delivery", "at-most-once"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			database, mqtt, collector := testkit.NewDatabase(t), broker(t), otlptest.NewCollector(t)
			db, messages := connect(t, ctx, database), consume(t, ctx, mqtt, "job/#")
			p := startTraced(t, database, mqtt, traced(collector.URL, "OTEL_SERVICE_NAME=lamps"), append(args, "--name", "first", "--http-addr", "127.0.0.1:0")...)
			address := httpAddress(t, ctx, p)
			id, fireAt := insert(t, ctx, db, "job/lamp", `{"traceparent": "`+traceparent+`", "tracestate": "vendor=1", "unit": "kWh"}`)
			ours := messages.one(t, ctx, id, "traceparent")
			for headers, want := range map[string]string{
				`{"traceparent": "00-` + traceID + `-` + parentID + `-00"}`: "00-" + traceID + "-" + parentID + "-00", // not sampled
				`{"traceparent": "00-abc-def-01"}`:                          "00-abc-def-01",
				`{"unit": "kWh"}`:                                           "",
				"":                                                          "",
			} {
				other, _ := insert(t, ctx, db, "job/other", headers)
				if got := messages.one(t, ctx, other, "traceparent"); got != want {
					t.Errorf("the headers %s: the message's traceparent is %q, want %q", headers, got, want)
				}
			}
			if got := messages.wait(t, ctx, id, 1)[0].Properties.User; got.Get("tracestate") != "vendor=1" || got.Get("unit") != "kWh" || len(got) != 4 {
				t.Errorf("the message carries %v", got)
			}
			collector.WaitSpans(ctx, 1)
			var metrics string
			for !strings.Contains(metrics, "reactor_spans_exported_total 1") { // it is counted when the answer is here
				if ctx.Err() != nil {
					t.Fatalf("metrics:\n%s", metrics)
				}
				_, metrics = get(t, ctx, "http://"+address+"/metrics")
			}
			if !strings.Contains(metrics, "reactor_spans_dropped_total 0") {
				t.Errorf("metrics:\n%s", metrics)
			}
			stop(t, p) // exports what is left
			spans := collector.Spans()
			if len(spans) != 1 {
				t.Fatalf("%d spans, want 1: %v", len(spans), spans)
			}
			s := spans[0]
			if want := "00-" + traceID + "-" + hex.EncodeToString(s.SpanId) + "-01"; ours != want {
				t.Errorf("the message's traceparent is %q, want %q", ours, want)
			}
			if hex.EncodeToString(s.TraceId) != traceID || hex.EncodeToString(s.ParentSpanId) != parentID || s.TraceState != "vendor=1" {
				t.Errorf("trace %x, parent %x, state %q", s.TraceId, s.ParentSpanId, s.TraceState)
			}
			if s.Name != "publish job/lamp" || s.Kind != tracepb.Span_SPAN_KIND_PRODUCER || s.Status.GetCode() != tracepb.Status_STATUS_CODE_UNSET {
				t.Errorf("the span is %v", s.Span)
			}
			late, _ := s.Attributes["reactor.lateness"].(float64)
			took := time.Duration(s.EndTimeUnixNano - s.StartTimeUnixNano)
			if int64(s.StartTimeUnixNano) < fireAt.UnixNano() || late < 0 || took < 0 || math.Abs(time.Unix(0, int64(s.EndTimeUnixNano)).Sub(fireAt).Seconds()-late) > 1e-6 {
				t.Errorf("due at %v, it begins at %d and ends at %d, %v s late", fireAt, s.StartTimeUnixNano, s.EndTimeUnixNano, late)
			}
			if client, _ := s.Attributes["messaging.client.id"].(string); !strings.HasPrefix(client, "reactor-") {
				t.Errorf("the client id is %q", client)
			}
			_, port, _ := net.SplitHostPort(strings.TrimPrefix(mqtt, "mqtt://"))
			for name, want := range map[string]any{
				"messaging.system": "mqtt", "messaging.operation.type": "send", "messaging.operation.name": "publish", "messaging.destination.name": "job/lamp",
				"messaging.message.id": fmt.Sprint(id), "messaging.message.body.size": int64(2), "server.address": "127.0.0.1",
				"reactor.outcome": "acked", "reactor.sends": int64(1),
			} {
				if got := s.Attributes[name]; got != want {
					t.Errorf("%s is %v, want %v", name, got, want)
				}
			}
			if got := fmt.Sprint(s.Attributes["server.port"]); got != port {
				t.Errorf("the broker's port is %s, want %s", got, port)
			}
			if s.Resource["service.name"] != "lamps" || s.Resource["service.instance.id"] != "first" || s.Resource["reactor.instance"] != "first" {
				t.Errorf("the resource is %v", s.Resource)
			}
		})
	}
}

// TestTraceOff: without --trace, or with the variable that turns traces off, traceparents pass through, and nothing is exported.
func TestTraceOff(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ args, env []string }{
		"no flag":  {nil, nil},
		"variable": {[]string{"--trace"}, []string{"OTEL_SDK_DISABLED=true"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			database, mqtt, collector := testkit.NewDatabase(t), broker(t), otlptest.NewCollector(t)
			db, messages := connect(t, ctx, database), consume(t, ctx, mqtt, "job/#")
			p := testkit.Run(t, testkit.ProcessConfig{
				Path: testkit.Reactor(t), Args: append([]string{"run"}, test.args...),
				Env: append(traced(collector.URL, "REACTOR_DATABASE_URL="+database, "REACTOR_MQTT_URL="+mqtt, "OTEL_TRACES_SAMPLER=always_on"), test.env...),
			})
			id, _ := insert(t, ctx, db, "job/lamp", `{"traceparent": "`+traceparent+`"}`)
			if got := messages.one(t, ctx, id, "traceparent"); got != traceparent {
				t.Errorf("the message's traceparent is %q", got)
			}
			stop(t, p)
			if n := len(collector.Requests()); n != 0 {
				t.Errorf("%d requests to the collector", n)
			}
		})
	}
}

// TestTraceRoots: with a sampler that takes them, jobs without a traceparent begin traces.
func TestTraceRoots(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database, mqtt, collector := testkit.NewDatabase(t), broker(t), otlptest.NewCollector(t)
	db, messages := connect(t, ctx, database), consume(t, ctx, mqtt, "job/#")
	p := startTraced(t, database, mqtt, traced(collector.URL, "OTEL_TRACES_SAMPLER=parentbased_always_on"))
	ids := []int64{}
	for _, headers := range []string{"", `{"unit": "kWh"}`} {
		id, _ := insert(t, ctx, db, "job/lamp", headers)
		ids = append(ids, id)
	}
	spans := collector.WaitSpans(ctx, 2)
	for _, id := range ids {
		of := spansOf(spans, id)
		if len(of) != 1 || len(of[0].ParentSpanId) != 0 {
			t.Fatalf("job %d: %v", id, of)
		}
		if got, want := messages.one(t, ctx, id, "traceparent"), fmt.Sprintf("00-%x-%x-03", of[0].TraceId, of[0].SpanId); got != want {
			t.Errorf("job %d: the message's traceparent is %q, want %q", id, got, want)
		}
	}
	if messages.one(t, ctx, ids[1], "unit") != "kWh" {
		t.Error("a header is missing")
	}
	stop(t, p)
}

// TestTraceFailures: a job that is not published has a span that says why. One that is tried again has another
// span in the same trace.
func TestTraceFailures(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database, collector := testkit.NewDatabase(t), otlptest.NewCollector(t)
	mqtt := testkit.OwnMosquitto(t, stack.MosquittoConfig{AccessRules: []string{"topic readwrite #", "topic deny job/forbidden"}}).URL()
	db := connect(t, ctx, database)
	const headers = `{"traceparent": "` + traceparent + `"}`
	var expired, missed int64
	if err := db.QueryRow(ctx, `INSERT INTO jobs (topic, fire_at, expires_at, headers) VALUES ('job/a', now() - interval '2 s', now() - interval '1 s', $1) RETURNING id`, headers).Scan(&expired); err != nil {
		t.Fatal(err)
	}
	if err := db.QueryRow(ctx, `INSERT INTO jobs (topic, fire_at, headers) VALUES ('job/b', now() - interval '2 h', $1) RETURNING id`, headers).Scan(&missed); err != nil {
		t.Fatal(err)
	}
	p := startTraced(t, database, mqtt, traced(collector.URL), "--max-lateness", "1h")
	refused, _ := insert(t, ctx, db, "job/forbidden", headers)
	for n := 1; len(spansOf(collector.Spans(), refused)) < 2; n++ {
		collector.WaitSpans(ctx, n)
	}
	for n := 4; len(spansOf(collector.Spans(), expired))+len(spansOf(collector.Spans(), missed)) < 2; n++ {
		collector.WaitSpans(ctx, n)
	}
	stop(t, p)
	spans := collector.Spans()
	for _, test := range []struct {
		id            int64
		outcome, kind string
		code          any
		sends         int64
	}{
		{expired, "expired", "expired", nil, 0}, {missed, "missed", "missed", nil, 0}, {refused, "refused", "0x87", int64(0x87), 1},
	} {
		for _, s := range spansOf(spans, test.id) {
			if a := s.Attributes; a["reactor.outcome"] != test.outcome || a["error.type"] != test.kind || a["reactor.reason_code"] != test.code || a["reactor.sends"] != test.sends {
				t.Errorf("job %d: %v", test.id, a)
			}
			if s.Status.GetCode() != tracepb.Status_STATUS_CODE_ERROR || s.Status.Message == "" {
				t.Errorf("job %d: status %v", test.id, s.Status)
			}
			if hex.EncodeToString(s.TraceId) != traceID || hex.EncodeToString(s.ParentSpanId) != parentID {
				t.Errorf("job %d: trace %x, parent %x", test.id, s.TraceId, s.ParentSpanId)
			}
		}
	}
	again := spansOf(spans, refused)
	if first, second := again[0], again[1]; hex.EncodeToString(first.SpanId) == hex.EncodeToString(second.SpanId) || second.StartTimeUnixNano < first.EndTimeUnixNano {
		t.Errorf("two attempts: %v and %v", first, second)
	}
	if late, _ := spansOf(spans, missed)[0].Attributes["reactor.lateness"].(float64); late < 7200 {
		t.Errorf("the missed job was %v s late", late)
	}
}

// TestTraceOfRecoveredJob: an instance is killed when the broker has passed the message on, and before it has heard
// so. Whoever recovers the job sends the message again (at-least-once) with the same context, and
// exports the span that both copies name.
func TestTraceOfRecoveredJob(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database, mqtt, collector := testkit.NewDatabase(t), broker(t), otlptest.NewCollector(t)
	db, messages := connect(t, ctx, database), consume(t, ctx, mqtt, "job/#")
	proxy := testkit.NewProxy(t, mqtt)
	env := traced(collector.URL, "OTEL_TRACES_SAMPLER=parentbased_always_on")
	killed := startTraced(t, database, proxy.Through(mqtt), env, "--delivery", "at-least-once")
	warm, _ := insert(t, ctx, db, "job/warm", "")
	messages.wait(t, ctx, warm, 1)
	collector.WaitSpans(ctx, 1)
	proxy.Stall(netfault.ToClient)
	child, _ := insert(t, ctx, db, "job/lamp", `{"traceparent": "`+traceparent+`"}`)
	root, _ := insert(t, ctx, db, "job/lamp", "")
	messages.wait(t, ctx, child, 1)
	messages.wait(t, ctx, root, 1)
	killed.Kill(t)
	p := startTraced(t, database, mqtt, env, "--delivery", "at-least-once")
	for _, id := range []int64{child, root} {
		copies := messages.wait(t, ctx, id, 2)
		if first, second := copies[0].Properties.User.Get("traceparent"), copies[1].Properties.User.Get("traceparent"); first != second || first == "" {
			t.Errorf("job %d: the copies of its message say %q and %q", id, first, second)
		}
	}
	stop(t, p)
	for _, id := range []int64{child, root} {
		spans := spansOf(collector.Spans(), id)
		if len(spans) != 1 {
			t.Fatalf("job %d: %d spans, want 1", id, len(spans))
		}
		if got := messages.one(t, ctx, id, "traceparent"); got[:52] != fmt.Sprintf("00-%x-%x", spans[0].TraceId, spans[0].SpanId) {
			t.Errorf("job %d: its message says %q, and its span is %x in trace %x", id, got, spans[0].SpanId, spans[0].TraceId)
		}
	}
}

// TestCollectorIsAway: whether the collector refuses connections or does not answer, every job is published, and in time.
// Dropped spans are counted, and the log says so in a few lines.
func TestCollectorIsAway(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"refuses", "does not answer"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			database, mqtt, collector := testkit.NewDatabase(t), broker(t), otlptest.NewCollector(t)
			url := collector.URL
			if how == "refuses" {
				proxy := testkit.NewProxy(t, collector.URL)
				url = proxy.Through(collector.URL)
				proxy.Refuse()
			} else {
				answer := make(chan struct{})
				t.Cleanup(func() { close(answer) })
				collector.Answer(func(int) (int, http.Header, []byte) {
					<-answer
					return http.StatusOK, nil, nil
				})
			}
			db, judge := connect(t, ctx, database), subscribe(t, ctx, mqtt, "job/#")
			const jobs, queue = 3000, 100
			p := startTraced(t, database, mqtt, traced(url, fmt.Sprint("OTEL_BSP_MAX_QUEUE_SIZE=", queue)), "--http-addr", "127.0.0.1:0")
			address := httpAddress(t, ctx, p)
			exec(t, ctx, db, `INSERT INTO jobs (topic, payload, fire_at, headers)
				SELECT 'job/' || n % 50, n::text, clock_timestamp() + interval '1 s' + n * interval '1 ms', jsonb_build_object('traceparent', $2::text) FROM generate_series(1, $1::int) n`, jobs, traceparent)
			expected, err := check.ExpectedFromDB(ctx, db, "true")
			if err != nil {
				t.Fatal(err)
			}
			if err := judge.WaitDistinct(ctx, jobs); err != nil {
				t.Fatal(err)
			}
			report := check.Compare(expected, judge.Received(), check.Config{})
			if err := report.Err(); err != nil {
				t.Error(err)
			}
			// One wait for the collector would take 10 s.
			if report.MaxLateness > 5*time.Second {
				t.Errorf("the latest job was %v late", report.MaxLateness)
			}
			var metrics string
			for want := fmt.Sprintf("reactor_jobs_published_total %d\n", jobs); !strings.Contains(metrics, want) && ctx.Err() == nil; {
				_, metrics = get(t, ctx, "http://"+address+"/metrics")
			}
			_, after, _ := strings.Cut(metrics, "\nreactor_spans_dropped_total ")
			after, _, _ = strings.Cut(after, "\n")
			if dropped, err := strconv.ParseFloat(after, 64); err != nil || dropped < jobs-2*queue {
				t.Errorf("%q spans were dropped, want nearly all of %d", after, jobs)
			}
			stop(t, p)
			if n := strings.Count(p.Output(), "cannot export spans"); n == 0 || n > 10 {
				t.Errorf("%d lines about the collector:\n%s", n, p.Output())
			}
			t.Logf("p50 %v, max %v late, %s spans dropped", report.LatenessAt(50), report.MaxLateness, after)
		})
	}
}

// TestMistakesInTraceVariables: an error in the variables of OpenTelemetry is one line, and an error in the settings. Without
// --trace nobody reads them.
func TestMistakesInTraceVariables(t *testing.T) {
	t.Parallel()
	args := []string{"run", "--database-url", "postgres://127.0.0.1:1/x", "--mqtt-url", "mqtt://x"}
	env := []string{"OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}
	code, output := call(t, env, append(args, "--trace")...)
	if code != 2 || len(lines(output)) != 1 || !strings.Contains(output, `OTEL_EXPORTER_OTLP_PROTOCOL is "grpc": reactor speaks http/protobuf only`) {
		t.Errorf("exit code %d, output:\n%s", code, output)
	}
	if code, output := call(t, env, args...); code != 1 || strings.Contains(output, "OTEL") {
		t.Errorf("without --trace: exit code %d, output:\n%s", code, output)
	}
}
