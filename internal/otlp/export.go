package otlp

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	collectorpb "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/job-publisher/reactor/internal/ratelog"
)

const (
	// firstPause is the pause after a failed request, which doubles up to lastPause.
	firstPause, lastPause = time.Second, 30 * time.Second
	// patience is how long the same spans are tried before they are dropped: by then newer ones are worth
	// more.
	patience = time.Minute
	// farewell bounds how long the end of the program waits for the collector.
	farewell = 5 * time.Second
	// maxAnswerBytes is how much of an answer is read.
	maxAnswerBytes = 64 << 10
)

// exporter sends what is in the queue. One goroutine uses it.
type exporter struct {
	tracer   *Tracer
	client   *http.Client
	failures ratelog.Limiter // of requests
	losses   ratelog.Limiter // of spans, while requests succeed
	told     int64           // how many dropped spans report has seen
}

// Run exports spans until ctx ends, and then what is left, for some seconds at most. A request that is under
// way then is finished: the collector may have taken its spans already, and would get them twice.
func (t *Tracer) Run(ctx context.Context) {
	hard, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	defer context.AfterFunc(ctx, func() {
		select {
		case <-hard.Done():
		case <-time.After(farewell):
			abort()
		}
	})()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = t.cfg.TLS
	defer transport.CloseIdleConnections()
	e := &exporter{tracer: t, client: &http.Client{
		Transport: transport, Timeout: t.cfg.Timeout,
		// A redirected POST would become a GET, and succeed with nothing said.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	tick := time.NewTicker(t.cfg.Delay)
	defer tick.Stop()
	for ctx.Err() == nil {
		all := false // else full batches only
		select {
		case <-ctx.Done():
		case <-tick.C:
			all = true
		case <-t.queue.ready:
		}
		for n := t.queue.len(); ctx.Err() == nil && (n >= t.cfg.BatchSpans || all && n > 0); n = t.queue.len() {
			e.insist(ctx, hard)
			all = all && n > t.cfg.BatchSpans
		}
	}
	e.finish(hard)
	if exported, dropped := t.Counts(); dropped > 0 {
		t.log.Warn("spans were dropped in this run", "dropped", dropped, "exported", exported)
	}
}

// insist exports the oldest spans, and tries again for some time if that may help, until soft ends.
func (e *exporter) insist(soft, hard context.Context) {
	spans := e.tracer.queue.first()
	begun, pause := time.Now(), e.tracer.pause
	for {
		lost, err := e.export(hard, spans)
		var temporary *temporaryError
		if err == nil || !errors.As(err, &temporary) || time.Since(begun) > patience {
			e.tracer.queue.done(len(spans), lost)
			e.report(err)
			return
		}
		e.report(err)
		wait := max(temporary.after, pause/2+rand.N(pause/2))
		pause = min(2*pause, lastPause)
		select {
		case <-soft.Done():
			return // finish tries them once more
		case <-time.After(min(wait, patience)):
		}
	}
}

// finish exports what is left, each span once, until hard ends.
func (e *exporter) finish(hard context.Context) {
	for {
		spans := e.tracer.queue.first()
		if len(spans) == 0 {
			return
		}
		lost, err := e.export(hard, spans)
		e.tracer.queue.done(len(spans), lost)
		e.report(err)
		if err != nil {
			if rest := e.tracer.queue.len(); rest > 0 {
				e.tracer.queue.done(rest, rest)
				e.report(err)
			}
			return
		}
	}
}

// report says in the log, once in a while, that spans are lost or late, and why.
func (e *exporter) report(err error) {
	log := e.tracer.log
	_, dropped := e.tracer.Counts()
	if err != nil {
		e.failures.Fail(log, slog.LevelWarn, "cannot export spans; jobs are published all the same", "collector", e.place(), "dropped", dropped, "err", err)
	} else {
		e.failures.OK(log, "exporting spans again", "dropped", dropped)
		if dropped > e.told {
			e.losses.Fail(log, slog.LevelWarn, "spans were dropped: the collector takes them more slowly than they come, or refuses some; raise OTEL_BSP_MAX_QUEUE_SIZE, or sample fewer", "collector", e.place(), "dropped", dropped)
		}
	}
	e.told = dropped
}

// place is the collector's address without credentials.
func (e *exporter) place() string {
	u, err := url.Parse(e.tracer.cfg.Endpoint)
	if err != nil {
		return ""
	}
	return u.Host
}

// temporaryError is a failure after which the same request may succeed [OTLP, "Failures"].
type temporaryError struct {
	err   error
	after time.Duration // the pause that the collector asks for
}

func (e *temporaryError) Error() string { return e.err.Error() }
func (e *temporaryError) Unwrap() error { return e.err }

// export sends spans, and returns how many of them the collector has not accepted.
func (e *exporter) export(ctx context.Context, spans []*span) (lost int, err error) {
	request, err := e.request(ctx, spans)
	if err != nil {
		return len(spans), err
	}
	answer, err := e.client.Do(request)
	if err != nil {
		if bad := (*url.Error)(nil); errors.As(err, &bad) {
			err = bad.Err // without the URL, which may contain a password
		}
		return len(spans), &temporaryError{err: err}
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswerBytes))
	switch {
	case answer.StatusCode >= 200 && answer.StatusCode < 300:
		// It has the spans, whatever became of its answer.
		return rejected(body, len(spans)), nil
	case err != nil:
		return len(spans), &temporaryError{err: err}
	}
	err = fmt.Errorf("the collector answered %s%s", answer.Status, excerpt(body))
	switch answer.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After"))
		return len(spans), &temporaryError{err, min(time.Duration(max(0, seconds))*time.Second, patience)}
	}
	return len(spans), err
}

// request is the HTTP request for spans.
func (e *exporter) request(ctx context.Context, spans []*span) (*http.Request, error) {
	cfg := &e.tracer.cfg
	body, err := proto.Marshal(e.tracer.request(spans))
	if err != nil {
		return nil, err
	}
	if cfg.Gzip {
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		_, _ = w.Write(body) // a Buffer takes everything
		_ = w.Close()
		body = packed.Bytes()
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, cfg.Endpoint, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", "reactor")
	for name, values := range cfg.Headers {
		request.Header[name] = values
	}
	request.Header.Set("Content-Type", "application/x-protobuf")
	if cfg.Gzip {
		request.Header.Set("Content-Encoding", "gzip")
	}
	return request, nil
}

// rejected is how many of n spans the collector says that it has not taken.
func rejected(body []byte, n int) int {
	var answer collectorpb.ExportTraceServiceResponse
	if proto.Unmarshal(body, &answer) != nil {
		return 0 // it has answered that it took them
	}
	return int(min(max(0, answer.GetPartialSuccess().GetRejectedSpans()), int64(n)))
}

// excerpt is the beginning of an answer that is text.
func excerpt(body []byte) string {
	text := strings.ToValidUTF8(strings.Join(strings.Fields(string(body[:min(len(body), 200)])), " "), "")
	for _, r := range text {
		if r < ' ' {
			return ""
		}
	}
	if text == "" {
		return ""
	}
	return ": " + text
}
