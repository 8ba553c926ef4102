package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
	"github.com/job-publisher/reactor/reactor/driver"
)

// testSource is a source that is not open.
func testSource(t *testing.T) *pgsource.Source {
	t.Helper()
	source, err := pgsource.New(pgsource.Config{DatabaseURL: "postgres://localhost"})
	if err != nil {
		t.Fatal(err)
	}
	return source
}

// serveHTTP serves the health of an instance that is not running.
func serveHTTP(t *testing.T) (address string) {
	t.Helper()
	source := testSource(t)
	sink, err := mqttsink.New(mqttsink.Config{URL: "mqtt://localhost"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := reactor.New(source, sink, reactor.Config{})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, ended := newServer(handler(r, nil, false)), make(chan error)
	go func() { ended <- server.Serve(listener) }()
	t.Cleanup(func() {
		// Shutdown waits for all connections; Close does not.
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

// raw opens a connection and sends a text.
func raw(t *testing.T, address, text string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestHalfRequests: the server soon closes a connection with an incomplete request.
func TestHalfRequests(t *testing.T) {
	t.Parallel()
	address := serveHTTP(t)
	for name, text := range map[string]string{
		"nothing":      "",
		"half a line":  "GET /heal",
		"half headers": "GET /healthz HTTP/1.1\r\nHost: x\r\n",
		"no body":      "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n",
		"half a body":  "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc",
		"no chunk":     "PUT /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := raw(t, address, text)
			conn.SetReadDeadline(time.Now().Add(httpReadTimeout + 3*time.Second))
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the connection is open after %v", httpReadTimeout+3*time.Second)
			}
		})
	}
}

// TestIdleConnectionsKeepNobodyOut: idle connections do not block new ones, whether they have sent no
// request, one request, or a part of one.
func TestIdleConnectionsKeepNobodyOut(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	address := serveHTTP(t)
	conns := make([]net.Conn, 3*maxHTTPConnections)
	for i := range conns {
		switch i % 3 {
		case 0:
			conns[i] = raw(t, address, "")
		case 1:
			conns[i] = raw(t, address, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
			if resp, err := http.ReadResponse(bufio.NewReader(conns[i]), nil); err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("connection %d: %v, %v", i, resp, err)
			}
		case 2:
			conns[i] = raw(t, address, "GET /healthz HTTP/1.1\r\n")
		}
	}
	begun := time.Now()
	if code, _ := get(t, ctx, "http://"+address+"/healthz"); code != http.StatusOK {
		t.Errorf("the answer is %d", code)
	}
	if took := time.Since(begun); took > httpReadTimeout/2 {
		t.Errorf("the answer took %v", took)
	}
	// As many connections as necessary were closed, long before their timeouts.
	ended := make(chan error, len(conns))
	for _, conn := range conns {
		conn.SetReadDeadline(begun.Add(httpReadTimeout * 4 / 5))
		go func() {
			_, err := io.Copy(io.Discard, conn)
			ended <- err
		}()
	}
	gone := len(conns) + 1 - maxHTTPConnections
	for i := range conns {
		if err := <-ended; i < gone && errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%d of %d connections were closed, want %d", i, len(conns), gone)
		}
		if i == gone-1 { // the others stay open
			for _, conn := range conns {
				conn.Close()
			}
		}
	}
}

func TestLargeHeadersAreRefused(t *testing.T) {
	conn := raw(t, serveHTTP(t), "GET /healthz HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 2*maxHTTPHeader)+"\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("the answer is %+v, %v", resp, err)
	}
}

// fakeInstance has the health that a test gives it.
type fakeInstance struct {
	stats  reactor.Stats
	stalls []reactor.Stall
}

func (f fakeInstance) Stats() reactor.Stats    { return f.stats }
func (f fakeInstance) Health() reactor.Health  { return f.stats.Health() }
func (f fakeInstance) Ahead() reactor.Ahead    { return reactor.Ahead{} }
func (f fakeInstance) Stalls() []reactor.Stall { return f.stalls }

// serveOne returns the answer of an instance to a request.
func serveOne(t *testing.T, r instance, path string) *httptest.ResponseRecorder {
	t.Helper()
	answer := httptest.NewRecorder()
	handler(r, nil, true).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
	return answer
}

// TestHealthInFlagTerms: the health names flags, not fields, because its readers know the flags.
func TestHealthInFlagTerms(t *testing.T) {
	answer := serveOne(t, fakeInstance{stats: reactor.Stats{Feed: driver.FeedState{Problem: "give pgsource.Config.ListenURL"}}}, "/readyz")
	if text := answer.Body.String(); strings.Count(text, "give --listen-url") != 3 || strings.Contains(text, "pgsource.Config") {
		t.Error(text)
	}
}

// TestReadinessNamesTheParts: every part has a state and the time since when it is in it, and one that
// fails makes the instance not ready.
func TestReadinessNamesTheParts(t *testing.T) {
	well := reactor.Stats{Shards: 64, Lanes: 3, LanesUp: 3, FeedUp: true, Loop: 2 * time.Second}
	for name, test := range map[string]struct {
		change func(*reactor.Stats)
		code   int
		status string
		part   string // which is not ok
		state  string
	}{
		"well":        {func(*reactor.Stats) {}, 200, "ok", "", ""},
		"no feed":     {func(s *reactor.Stats) { s.FeedUp = false }, 200, "degraded", "feed", "degraded"},
		"no shards":   {func(s *reactor.Stats) { s.Shards = 0 }, 503, "not ready", "shards", "failing"},
		"no database": {func(s *reactor.Stats) { s.LastBeat = time.Minute }, 503, "not ready", "database", "failing"},
		"a lane away": {func(s *reactor.Stats) { s.LanesUp = 2 }, 200, "degraded", "lanes", "degraded"},
		"old clock":   {func(s *reactor.Stats) { s.LastClock = time.Minute }, 200, "degraded", "clock", "degraded"},
		"stuck":       {func(s *reactor.Stats) { s.OldestDue, s.LastAccepted = 9*time.Second, 9*time.Second }, 503, "not ready", "jobs", "failing"},
	} {
		s := well
		test.change(&s)
		response := serveOne(t, fakeInstance{stats: s}, "/readyz")
		var answer struct {
			Status string
			Parts  map[string]struct {
				State    string
				Since    time.Time
				Seconds  float64
				Problems []string
			}
			Stats reactor.Stats
		}
		if err := json.Unmarshal(response.Body.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
		if response.Code != test.code || answer.Status != test.status {
			t.Errorf("%s: %d, %q; want %d, %q", name, response.Code, answer.Status, test.code, test.status)
		}
		if got, want := slices.Sorted(maps.Keys(answer.Parts)), []string{"broker", "clock", "database", "feed", "jobs", "lanes", "shards"}; !slices.Equal(got, want) {
			t.Errorf("%s: the parts are %v, want %v", name, got, want)
		}
		for part, p := range answer.Parts {
			want := "ok"
			if part == test.part {
				want = test.state
			}
			if p.State != want || (want == "ok") != (len(p.Problems) == 0) || time.Since(p.Since).Abs() > time.Minute {
				t.Errorf("%s: %s is %+v, want %s", name, part, p, want)
			}
		}
	}
}

// TestLiveness: /healthz names the parts that do not go on, and says nothing of what is away.
func TestLiveness(t *testing.T) {
	away := reactor.Stats{LastBeat: time.Hour, Lanes: 3}
	if answer := serveOne(t, fakeInstance{stats: away}, "/healthz"); answer.Code != http.StatusOK || strings.TrimSpace(answer.Body.String()) != `{"status":"ok"}` {
		t.Errorf("without servers: %d, %s", answer.Code, answer.Body)
	}
	stalled := fakeInstance{stalls: []reactor.Stall{{Part: "dispatcher", For: 31 * time.Second}, {Part: "settler", For: time.Hour}}}
	answer := serveOne(t, stalled, "/healthz")
	for _, want := range []string{`"stalled"`, "the dispatcher has not gone on for 31s", "the settler has not gone on for 1h0m0s"} {
		if answer.Code != http.StatusServiceUnavailable || !strings.Contains(answer.Body.String(), want) {
			t.Errorf("%d, %s\nwant 503 with %s", answer.Code, answer.Body, want)
		}
	}
}

// TestProfiles: they are served if that is wanted only, and show no command line.
func TestProfiles(t *testing.T) {
	t.Parallel()
	if answer := serveOne(t, fakeInstance{}, "/debug/pprof/"); !strings.Contains(answer.Body.String(), "goroutine\n") {
		t.Errorf("the list is %q", answer.Body)
	}
	for path, code := range map[string]int{
		"/debug/pprof/heap": 200, "/debug/pprof/goroutine?debug=2": 200, "/debug/pprof/trace?seconds=0.01": 200, "/debug/pprof/profile?seconds=0.01": 200,
		"/debug/pprof/nothing": 404, "/debug/pprof/cmdline": 404, "/debug/pprof/profile?seconds=0": 400, "/debug/pprof/profile?seconds=many": 400, "/debug/pprof/trace?seconds=1e9": 400,
	} {
		if answer := serveOne(t, fakeInstance{}, path); answer.Code != code || answer.Body.Len() == 0 {
			t.Errorf("%s: %d with %d bytes, want %d", path, answer.Code, answer.Body.Len(), code)
		}
	}
	without := httptest.NewRecorder()
	handler(fakeInstance{}, nil, false).ServeHTTP(without, httptest.NewRequest(http.MethodGet, "/debug/pprof/heap", nil))
	if without.Code != http.StatusNotFound {
		t.Errorf("without --pprof: %d", without.Code)
	}
}
