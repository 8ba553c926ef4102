// Package otlptest is a collector of spans for tests.
package otlptest

import (
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	collectorpb "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/slim/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Collector is an HTTP server that takes spans by OTLP.
type Collector struct {
	URL string

	t        testing.TB
	mu       sync.Mutex
	answer   func(n int) (code int, header http.Header, body []byte) // guarded by mu
	requests []*http.Request                                         // guarded by mu: without their bodies
	spans    []Span                                                  // guarded by mu: of requests that were accepted
	changed  chan struct{}                                           // guarded by mu: closed and replaced at each request
}

// Span is a span that was received, with all its attributes.
type Span struct {
	*tracepb.Span
	Attributes, Resource map[string]any // text, int64, float64 or bool
}

// NewCollector starts a collector. It takes everything until Answer says otherwise.
func NewCollector(t testing.TB) *Collector {
	t.Helper()
	c := &Collector{t: t, changed: make(chan struct{})}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	c.URL = server.URL
	return c
}

// Answer sets what the collector answers to the n-th request, counted from 1. Spans of a request that is
// not answered by 200 are not kept. answer may block.
func (c *Collector) Answer(answer func(n int) (code int, header http.Header, body []byte)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = answer
}

// ServeHTTP implements http.Handler.
func (c *Collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(r.Body)
		if err != nil {
			c.t.Errorf("collector: %v", err)
			return
		}
		body = unpacked
	}
	text, err := io.ReadAll(body)
	var request collectorpb.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(text, &request)
	}
	if err != nil {
		c.t.Errorf("collector: a request that cannot be read: %v", err)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	c.requests = append(c.requests, r)
	n, answer := len(c.requests), c.answer
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	code, header, reply := http.StatusOK, http.Header(nil), []byte(nil)
	if answer != nil {
		code, header, reply = answer(n)
	}
	if code == http.StatusOK {
		c.keep(&request)
	}
	for name, values := range header {
		w.Header()[name] = values
	}
	w.WriteHeader(code)
	_, _ = w.Write(reply)
}

func (c *Collector) keep(request *collectorpb.ExportTraceServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range request.ResourceSpans {
		for _, scope := range r.ScopeSpans {
			for _, s := range scope.Spans {
				c.spans = append(c.spans, Span{s, values(s.Attributes), values(r.Resource.GetAttributes())})
			}
		}
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

func values(list []*commonpb.KeyValue) map[string]any {
	all := map[string]any{}
	for _, a := range list {
		switch v := a.Value.Value.(type) {
		case *commonpb.AnyValue_StringValue:
			all[a.Key] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			all[a.Key] = v.IntValue
		case *commonpb.AnyValue_DoubleValue:
			all[a.Key] = v.DoubleValue
		case *commonpb.AnyValue_BoolValue:
			all[a.Key] = v.BoolValue
		}
	}
	return all
}

// Spans are those received so far.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Span(nil), c.spans...)
}

// Requests are those received so far; their bodies have been read.
func (c *Collector) Requests() []*http.Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*http.Request(nil), c.requests...)
}

// WaitSpans waits until n spans were received.
func (c *Collector) WaitSpans(ctx context.Context, n int) []Span {
	c.t.Helper()
	c.wait(ctx, func() bool { return len(c.spans) >= n }, "spans", n)
	return c.Spans()
}

// WaitRequests waits until n requests were received, whatever they are answered.
func (c *Collector) WaitRequests(ctx context.Context, n int) []*http.Request {
	c.t.Helper()
	c.wait(ctx, func() bool { return len(c.requests) >= n }, "requests", n)
	return c.Requests()
}

func (c *Collector) wait(ctx context.Context, enough func() bool, what string, n int) {
	c.t.Helper()
	for {
		c.mu.Lock()
		ok, changed, spans, requests := enough(), c.changed, len(c.spans), len(c.requests)
		c.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			c.t.Fatalf("collector: waiting for %d %s: %d spans in %d requests", n, what, spans, requests)
		}
	}
}
