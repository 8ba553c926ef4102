package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
)

const (
	prometheusDir = "../../deploy/prometheus"
	dashboardFile = "../../deploy/grafana/dashboards/reactor.json"
)

// installed returns the path of a program of Prometheus.
func installed(t *testing.T, program string) string {
	t.Helper()
	path, err := osexec.LookPath(program)
	if err != nil {
		t.Fatalf("%s is missing: run `make setup`, or install Prometheus", program)
	}
	return path
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// alertNames are those that a text of rules, or of tests of rules, names by a key.
func alertNames(text, key string) []string {
	var names []string
	for _, match := range regexp.MustCompile(`(?m)^\s+(?:- )?`+key+`: (\w+)`).FindAllStringSubmatch(text, -1) {
		names = append(names, match[1])
	}
	return names
}

// TestAlertRules: promtool accepts the rules and their tests, and each alert has a test in which it fires, one
// in which it does not, and a section of the documentation, to which it links.
func TestAlertRules(t *testing.T) {
	t.Parallel()
	promtool := installed(t, "promtool")
	for _, args := range [][]string{{"check", "config", "prometheus.yml"}, {"check", "rules", "rules.yml"}, {"test", "rules", "rules_test.yml"}} {
		cmd := osexec.Command(promtool, args...)
		cmd.Dir = prometheusDir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	rules, tests, docs := readFile(t, filepath.Join(prometheusDir, "rules.yml")), readFile(t, filepath.Join(prometheusDir, "rules_test.yml")), readFile(t, "../../docs/monitoring.md")
	alerts := alertNames(rules, "alert")
	if len(alerts) < 20 {
		t.Fatalf("found %d alerts: the search is probably broken", len(alerts))
	}
	for _, alert := range alerts {
		if strings.Count(tests, "name: "+alert+" fires\n") != 1 || strings.Count(tests, "name: "+alert+" is quiet\n") != 1 {
			t.Errorf("rules_test.yml does not say when %s fires, and when not", alert)
		}
		if !strings.Contains(docs, "\n### "+alert+"\n") {
			t.Errorf("docs/monitoring.md has no section %s", alert)
		}
		if link := "docs/monitoring.md#" + strings.ToLower(alert) + "\n"; strings.Count(rules, link) != 1 {
			t.Errorf("%s has no runbook_url that ends in %s", alert, link)
		}
	}
	for _, match := range regexp.MustCompile(`(?m)^### (Reactor\w+)$`).FindAllStringSubmatch(docs, -1) {
		if !slices.Contains(alerts, match[1]) {
			t.Errorf("docs/monitoring.md explains %s, which is no alert", match[1])
		}
	}
	namesExist(t, "rules.yml", rules)
	namesExist(t, "rules_test.yml", tests)
}

// namesExist: every metric that a text names is one of ours.
func namesExist(t *testing.T, what, text string) {
	t.Helper()
	names := ourMetrics(t)
	found := 0
	for _, name := range regexp.MustCompile(`\breactor_\w+`).FindAllString(text, -1) {
		found++
		if !names[name] && !names[regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")] {
			t.Errorf("%s names %s, which is no metric", what, name)
		}
	}
	if found < 20 {
		t.Errorf("%s names %d metrics: the search is probably broken", what, found)
	}
}

// dashboard is what the tests read of a dashboard.
type dashboard struct {
	Panels []struct {
		ID          int
		Type        string
		Title       string
		Description string
		GridPos     struct{ X, Y, W, H int }
		Targets     []struct{ Expr string }
	}
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	if err := json.Unmarshal([]byte(readFile(t, dashboardFile)), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDashboard: each panel says what it shows, none covers another one, and all metrics exist.
func TestDashboard(t *testing.T) {
	t.Parallel()
	panels := readDashboard(t).Panels
	ids := map[int]bool{}
	taken := map[[2]int]string{}
	for _, p := range panels {
		if ids[p.ID] || p.Title == "" || p.Type != "row" && (p.Description == "" || len(p.Targets) == 0) {
			t.Errorf("the panel %d %q lacks an id of its own, a title, a description or a query", p.ID, p.Title)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				place := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other := taken[place]; other != "" || place[0] >= 24 {
					t.Fatalf("%q lies on %q, or beyond the edge", p.Title, other)
				}
				taken[place] = p.Title
			}
		}
	}
	if len(panels) < 20 {
		t.Errorf("%d panels", len(panels))
	}
	namesExist(t, "the dashboard", readFile(t, dashboardFile))
}

// prometheusServer is one that scrapes an instance, and evaluates our rules at short intervals.
type prometheusServer struct {
	t   *testing.T
	url string
}

func startPrometheus(t *testing.T, ctx context.Context, target string, features ...string) prometheusServer {
	t.Helper()
	port, err := stack.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// The rules are ours; only that an alert waits before it fires is shortened.
	rules := regexp.MustCompile(`(?m)^(\s+for:) .*$`).ReplaceAllString(readFile(t, filepath.Join(prometheusDir, "rules.yml")), "$1 400ms")
	for name, text := range map[string]string{
		"rules.yml":      rules,
		"prometheus.yml": fmt.Sprintf("global: {scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}\nrule_files: [rules.yml]\nscrape_configs:\n  - job_name: reactor\n    static_configs: [{targets: [%q]}]\n", target),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	address := fmt.Sprint("127.0.0.1:", port)
	testkit.Run(t, testkit.ProcessConfig{Path: installed(t, "prometheus"), Dir: dir, Args: append(features,
		"--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address="+address, "--log.level=warn")})
	server := prometheusServer{t, "http://" + address}
	server.until(ctx, "it is ready", func() bool {
		response, err := http.Get(server.url + "/-/ready")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	return server
}

// until asks until something holds.
func (s prometheusServer) until(ctx context.Context, what string, holds func() bool) {
	s.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Fatalf("prometheus: not %s", what)
		}
	}
}

// ask requests a path of the API, and returns the data of the answer.
func (s prometheusServer) ask(ctx context.Context, path string, data any) {
	s.t.Helper()
	_, body := get(s.t, ctx, s.url+"/api/v1/"+path)
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.Status != "success" {
		s.t.Errorf("%s: %v %s", path, err, body)
		return
	}
	if err := json.Unmarshal(answer.Data, data); err != nil {
		s.t.Fatal(err)
	}
}

// firing returns the names of the alerts that fire, without those that a slow machine is enough for.
func (s prometheusServer) firing(ctx context.Context) []string {
	var data struct {
		Alerts []struct {
			Labels map[string]string
			State  string
		}
	}
	s.ask(ctx, "alerts", &data)
	var names []string
	for _, a := range data.Alerts {
		if name := a.Labels["alertname"]; a.State == "firing" && name != "ReactorLate" && name != "ReactorDatabaseSlow" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// result is the answer to a query: a vector.
type result struct {
	Result []struct {
		Metric    map[string]string
		Value     []any
		Histogram []any
	}
}

func (s prometheusServer) query(ctx context.Context, expr string) result {
	s.t.Helper()
	var r result
	s.ask(ctx, "query?query="+url.QueryEscape(expr), &r)
	return r
}

// TestAlertsFire: a real Prometheus scrapes a real instance. While it is well, no alert fires, and all queries of the
// dashboard have an answer; when its broker is stopped, the right ones fire, and when it is back, they end.
func TestAlertsFire(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database, mosquitto := testkit.NewDatabase(t), testkit.OwnMosquitto(t, stack.MosquittoConfig{})
	db, judge := connect(t, ctx, database), subscribe(t, ctx, mosquitto.URL(), "job/#")
	p := start(t, database, mosquitto.URL(), "--http-addr", "127.0.0.1:0")
	address := httpAddress(t, ctx, p)
	awaitReady(t, ctx, "http://"+address+"/readyz", "at the start", http.StatusOK, `"status":"ok"`)
	server := startPrometheus(t, ctx, address)
	exec(t, ctx, db, "INSERT INTO jobs (topic, fire_at) SELECT 'job/well', now() FROM generate_series(1, 100)")
	if err := judge.WaitDistinct(ctx, 100); err != nil {
		t.Fatal(err)
	}
	server.until(ctx, "all jobs are in its data", func() bool {
		r := server.query(ctx, "reactor_lateness_seconds_count and count_over_time(reactor_ready[1m]) > 2")
		return len(r.Result) == 1 && r.Result[0].Value[1] == "100"
	})
	for _, panel := range readDashboard(t).Panels {
		for _, target := range panel.Targets {
			expr := strings.NewReplacer("$__rate_interval", "1m", "$job", "reactor", "$instance", ".*").Replace(target.Expr)
			if strings.Contains(expr, "next_due") {
				continue // absent until something happens
			}
			// A scrape that takes longer than 0.2 s, on a busy machine, fails and ends all series until the next one.
			server.until(ctx, fmt.Sprintf("%s: an answer to %s", panel.Title, expr), func() bool { return len(server.query(ctx, expr).Result) > 0 })
		}
	}
	if names := server.firing(ctx); len(names) > 0 {
		t.Errorf("while all is well, these fire: %v", names)
	}

	if err := mosquitto.Stop(); err != nil {
		t.Fatal(err)
	}
	server.until(ctx, "the alerts fire", func() bool {
		names := server.firing(ctx)
		return slices.Contains(names, "ReactorNotReady") && slices.Contains(names, "ReactorLanesDown")
	})
	if names := server.firing(ctx); slices.Contains(names, "ReactorHeartbeatLost") || slices.Contains(names, "ReactorDown") || slices.Contains(names, "ReactorStalled") {
		t.Errorf("without the broker, these fire: %v", names)
	}
	if err := mosquitto.Start(ctx); err != nil {
		t.Fatal(err)
	}
	server.until(ctx, "the alerts end", func() bool { return len(server.firing(ctx)) == 0 })
}

// TestNativeHistograms: a Prometheus that takes native histograms takes ours.
func TestNativeHistograms(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database, mqtt := testkit.NewDatabase(t), broker(t)
	db, judge := connect(t, ctx, database), subscribe(t, ctx, mqtt, "job/#")
	address := httpAddress(t, ctx, start(t, database, mqtt, "--http-addr", "127.0.0.1:0"))
	exec(t, ctx, db, "INSERT INTO jobs (topic, fire_at) SELECT 'job/native', now() FROM generate_series(1, 100)")
	if err := judge.WaitDistinct(ctx, 100); err != nil {
		t.Fatal(err)
	}
	server := startPrometheus(t, ctx, address, "--enable-feature=native-histograms")
	server.until(ctx, "all jobs are in its data", func() bool {
		r := server.query(ctx, "histogram_count(reactor_lateness_seconds)")
		return len(r.Result) == 1 && r.Result[0].Value[1] == "100"
	})
	if r := server.query(ctx, "histogram_quantile(0.5, reactor_lateness_seconds) < 60"); len(r.Result) != 1 {
		t.Errorf("the median is %v", r.Result)
	}
	// The rule for them: no job is later than any job can be.
	if r := server.query(ctx, "histogram_fraction(0, 1024, reactor_lateness_seconds) == 1"); len(r.Result) != 1 {
		t.Errorf("a part of the jobs has no lateness: %v", r.Result)
	}
}
