package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/testkit"
)

// verbatim is the insert statement of the system that we replace, exactly as its users wrote it.
const verbatim = `INSERT INTO jobs (topic, payload, fire_at, processed, processed_at)
SELECT 'job/test/topic', '{"Job": "' || x.test_data || '"}', now(), false, null
FROM generate_series(1,20000) AS x(test_data);`

func start(t *testing.T, database, broker string, args ...string) *testkit.Process {
	t.Helper()
	return testkit.Run(t, testkit.ProcessConfig{
		Path: testkit.Reactor(t), Args: append([]string{"run"}, args...),
		Env: []string{"REACTOR_DATABASE_URL=" + database, "REACTOR_MQTT_URL=" + broker},
	})
}

func TestRunPublishesAndStops(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database, mqtt := testkit.NewDatabase(t), broker(t)
	db, judge := connect(t, ctx, database), subscribe(t, ctx, mqtt, "job/#")
	p := start(t, database, mqtt, "--http-addr", "127.0.0.1:0", "--name", "one")
	address := httpAddress(t, ctx, p)

	exec(t, ctx, db, verbatim)
	if err := judge.WaitDistinct(ctx, 20000); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/healthz": `"status":"ok"`, "/readyz": `"Shards":64`, "/metrics": "reactor_jobs_published_total 20000", "/": "Served by <b>one</b>",
	} {
		code, body := get(t, ctx, "http://"+address+path)
		if code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d, want %q in\n%s", path, code, want, body)
		}
	}
	// Somebody who looks at the page does not hold up the stop.
	stream := raw(t, address, "GET /events HTTP/1.1\r\nHost: "+address+"\r\n\r\n")
	if answer, err := http.ReadResponse(bufio.NewReader(stream), nil); err != nil || answer.StatusCode != http.StatusOK {
		t.Errorf("the stream: %v, %v", answer, err)
	}
	p.Terminate(t)
	p.Interrupt(t) // a second signal at once, as timeout(1) sends it
	if code := p.Wait(t, 20*time.Second); code != 0 {
		t.Errorf("a clean stop exits with %d:\n%s", code, p.Output())
	}
	expected, err := check.ExpectedFromDB(ctx, db, "true")
	if err != nil {
		t.Fatal(err)
	}
	if err := check.Compare(expected, judge.Received(), check.Config{}).Err(); err != nil {
		t.Error(err)
	}
}

// httpAddress returns the address at which an instance serves HTTP.
func httpAddress(t *testing.T, ctx context.Context, p *testkit.Process) string {
	t.Helper()
	_, address, _ := strings.Cut(waitLine(t, ctx, p, "serving health and metrics"), `"address":"`)
	address, _, ok := strings.Cut(address, `"`)
	if !ok {
		t.Fatalf("no address in\n%s", p.Output())
	}
	return address
}

func get(t *testing.T, ctx context.Context, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
	return resp.StatusCode, string(body)
}

// TestKilledInstanceIsReplaced: one of three instances is killed with -9 while jobs are due. No job is
// lost, and the jobs that it had claimed are published within seconds.
func TestKilledInstanceIsReplaced(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database, mqtt := testkit.NewDatabase(t), broker(t)
	db, judge := connect(t, ctx, database), subscribe(t, ctx, mqtt, "job/#")
	var all []*testkit.Process
	for i := range 3 {
		all = append(all, start(t, database, mqtt, "--name", fmt.Sprint("instance-", i)))
	}
	for shared := false; !shared; {
		if err := db.QueryRow(ctx, "SELECT count(DISTINCT owner) = 3 FROM reactor.shards").Scan(&shared); err != nil {
			t.Fatal(err)
		}
	}
	exec(t, ctx, db, `INSERT INTO jobs (topic, payload, fire_at)
		SELECT 'job/' || n % 50, n::text, now() + n * interval '1 millisecond' / 2 FROM generate_series(1, 12000) n`)
	if err := judge.WaitDistinct(ctx, 3000); err != nil {
		t.Fatal(err)
	}
	all[1].Kill(t)
	all[1].Wait(t, time.Minute)
	expected, err := check.ExpectedFromDB(ctx, db, "true")
	if err != nil {
		t.Fatal(err)
	}
	if err := judge.WaitDistinct(ctx, len(expected)); err != nil {
		t.Fatal(err)
	}
	report := check.Compare(expected, judge.Received(), check.Config{})
	if report.Lost.Count > 0 || report.Early.Count > 0 || report.Foreign.Count > 0 || report.Altered.Count > 0 {
		t.Error(report.Err())
	}
	t.Logf("%d of %d jobs twice, the latest %v late", report.Duplicated.Count, len(expected), report.MaxLateness)
}
