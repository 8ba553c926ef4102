package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/internal/testkit"
)

// TestHealthCommand: one line and the exit status say how an instance does.
func TestHealthCommand(t *testing.T) {
	t.Parallel()
	var status atomic.Value
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		code, answer, _ := strings.Cut(status.Load().(string), " ")
		if code == "503" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		if code == "slow" {
			<-r.Context().Done()
		}
		w.Write([]byte(strings.ReplaceAll(answer, "PATH", r.URL.Path)))
	}))
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "http://")
	_, port, _ := net.SplitHostPort(address)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, test := range []struct {
		name, status string
		args         []string
		code         int
		want         string
	}{
		{"ready", `200 {"status":"ok"}`, []string{"--http-addr", address}, 0, "ok"},
		{"degraded", `200 {"status":"degraded","problems":["no feed","PATH"]}`, []string{"--http-addr", address}, 0, "degraded: no feed; /readyz"},
		{"not ready", `503 {"status":"not ready","problems":["no broker"]}`, []string{"--http-addr", address}, 1, "reactor: not ready: no broker"},
		{"alive", `200 {"status":"ok","problems":["PATH"]}`, []string{"--live", "--http-addr", address}, 0, "ok: /healthz"},
		{"on all addresses", `200 {"status":"ok"}`, []string{"--http-addr", ":" + port}, 0, "ok"},
		{"a terminal's codes", `200 {"status":"ok","problems":["\u001b[31mred"]}`, []string{"--http-addr", address}, 0, `ok: \x1b[31mred`},
		{"somebody else", `200 <html>`, []string{"--http-addr", address}, 1, "not that of an instance"},
		{"no answer", `slow`, []string{"--http-addr", address, "--timeout", "50ms"}, 1, "within 50ms"},
		{"nobody", ``, []string{"--http-addr", closed.Addr().String()}, 1, "is an instance running here"},
		{"off", ``, []string{"--http-addr", "off"}, cli.ExitUsage, "--http-addr is off"},
		{"no port", ``, []string{"--http-addr", "localhost"}, cli.ExitUsage, "give HOST:PORT"},
	} {
		status.Store(test.status)
		var stdout, stderr strings.Builder
		code := newProgram(&commands{}).Run(append([]string{"health"}, test.args...), &stdout, &stderr)
		output := stdout.String() + stderr.String()
		if code != test.code || len(lines(output)) != 1 || !strings.Contains(output, test.want) || (code == 0) != (stderr.Len() == 0) {
			t.Errorf("%s: exit code %d, output %q; want %d and one line with %q", test.name, code, output, test.code, test.want)
		}
	}
}

// TestWhereHealthIsServed: without flags an instance serves on this host only, a second one takes a free
// port, and off serves nowhere. The health command finds the first.
func TestWhereHealthIsServed(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database, mqtt := testkit.NewDatabase(t), broker(t)
	first, second := start(t, database, mqtt), start(t, database, mqtt)
	for _, p := range []*testkit.Process{first, second} {
		address := httpAddress(t, ctx, p)
		if !strings.HasPrefix(address, "127.0.0.1:") {
			t.Errorf("it serves at %s", address)
		}
		awaitReady(t, ctx, "http://"+address+"/readyz", "at "+address, http.StatusOK, `"clock":{"state":"ok"`)
		if code, output := call(t, []string{"REACTOR_HTTP_ADDR=" + address}, "health"); code != 0 || !strings.HasPrefix(output, "ok") && !strings.HasPrefix(output, "degraded") {
			t.Errorf("health: %d, %q", code, output)
		}
		if code, output := call(t, nil, "health", "--live", "--http-addr", address); code != 0 || output != "ok\n" {
			t.Errorf("health --live: %d, %q", code, output)
		}
	}
	code, output := call(t, []string{"REACTOR_DATABASE_URL=" + database, "REACTOR_MQTT_URL=" + mqtt}, "run", "--http-addr", "off", "--max-reads", "1")
	if code != 0 || strings.Contains(output, "serving health") {
		t.Errorf("off: %d\n%s", code, output)
	}
	first.Terminate(t)
	if code := first.Wait(t, time.Minute); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if code, _ := call(t, nil, "health", "--http-addr", httpAddress(t, ctx, first)); code != cli.ExitFailure {
		t.Errorf("health of an instance that has ended: %d", code)
	}
}
