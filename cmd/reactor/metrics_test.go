package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor"
)

// samples are the values of a text of metrics, by name and labels as they are written.
type samples map[string]float64

func parseSamples(t *testing.T, text string) samples {
	t.Helper()
	all := samples{}
	for _, line := range lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if at < 0 || err != nil {
			t.Fatalf("not a sample: %q", line)
		}
		all[line[:at]] = value
	}
	return all
}

// scrape reads the metrics of an instance.
func scrape(t *testing.T, ctx context.Context, address string) samples {
	t.Helper()
	code, text := get(t, ctx, "http://"+address+"/metrics")
	if code != http.StatusOK {
		t.Fatalf("metrics: %d\n%s", code, text)
	}
	return parseSamples(t, text)
}

// families asks for the metrics as protocol buffers, as Prometheus does for native histograms.
func families(t *testing.T, h http.Handler) map[string]*dto.MetricFamily {
	t.Helper()
	request := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	request.Header.Set("Accept", "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited")
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, request)
	all := map[string]*dto.MetricFamily{}
	for in := bufio.NewReader(answer.Body); ; {
		family := new(dto.MetricFamily)
		if err := protodelim.UnmarshalFrom(in, family); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[family.GetName()] = family
	}
}

// TestMetricsAgree holds the metrics against the table, and against what a subscriber has received.
func TestMetricsAgree(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	database, mqtt := testkit.NewDatabase(t), broker(t)
	db, judge := connect(t, ctx, database), subscribe(t, ctx, mqtt, "job/#")
	p := start(t, database, mqtt, "--http-addr", "127.0.0.1:0", "--max-lateness", "30s", "--loop-frequency", "200ms")
	address := httpAddress(t, ctx, p)
	awaitReady(t, ctx, "http://"+address+"/readyz", "at the start", http.StatusOK, "")
	exec(t, ctx, db, `INSERT INTO jobs (topic, payload, fire_at, expires_at)
		SELECT 'job/now', n::text, now(), NULL::timestamptz FROM generate_series(1, 300) n UNION ALL
		SELECT 'job/soon', n::text, now() + n * interval '5 milliseconds', NULL FROM generate_series(1, 200) n UNION ALL
		SELECT 'job/late', n::text, now() - interval '10 seconds', NULL FROM generate_series(1, 50) n UNION ALL
		SELECT 'job/expired', n::text, now(), now() - interval '1 second' FROM generate_series(1, 20) n UNION ALL
		SELECT 'job/missed', n::text, now() - interval '1 minute', NULL FROM generate_series(1, 10) n UNION ALL
		SELECT 'job/later', n::text, now() + interval '1 hour', NULL FROM generate_series(1, 7) n`)
	if err := judge.WaitDistinct(ctx, 550); err != nil {
		t.Fatal(err)
	}
	// The instance counts a job a moment after the subscriber has it, and a failed one when that is recorded.
	var got samples
	for done := false; !done; {
		if err := db.QueryRow(ctx, "SELECT count(*) = 30 FROM reactor.failed_jobs").Scan(&done); err != nil {
			t.Fatal(err)
		}
		got = scrape(t, ctx, address)
		done = done && got["reactor_jobs_failed_total"] >= 30 && got["reactor_jobs_published_total"] >= 550 && got["reactor_jobs_in_flight"] == 0
	}
	expected, err := check.ExpectedFromDB(ctx, db, "topic IN ('job/now', 'job/soon', 'job/late')")
	if err != nil {
		t.Fatal(err)
	}
	if err := check.Compare(expected, judge.Received(), check.Config{}).Err(); err != nil {
		t.Fatal(err)
	}
	var failed, expired, missed, processed float64
	if err := db.QueryRow(ctx, `SELECT count(*), count(*) FILTER (WHERE reason LIKE 'expired%'), count(*) FILTER (WHERE reason LIKE 'missed%'),
		(SELECT count(*) FROM jobs WHERE processed) FROM reactor.failed_jobs`).Scan(&failed, &expired, &missed, &processed); err != nil {
		t.Fatal(err)
	}
	received := float64(len(judge.Received()))
	if received != 550 || failed != 30 || expired != 20 || missed != 10 || processed != 580 {
		t.Fatalf("received %v, failed %v (%v, %v), processed %v", received, failed, expired, missed, processed)
	}
	for name, want := range map[string]float64{
		"reactor_jobs_published_total": received, "reactor_jobs_failed_total": failed, "reactor_jobs_expired_total": expired, "reactor_jobs_missed_total": missed,
		"reactor_lateness_seconds_count": received, "reactor_jobs_early_total": 0, "reactor_outcomes_unknown_total": 0, "reactor_jobs_refused_total": 0, "reactor_jobs_recovered_total": 0,
		"reactor_oldest_due_seconds": 0, "reactor_oldest_unclaimed_seconds": 0, "reactor_shards": 64, "reactor_lanes": 3, "reactor_lanes_up": 3, "reactor_unacknowledged_messages": 0,
		`reactor_feed{kind="notify"}`: 1, `reactor_feed{kind="wal"}`: 0, "reactor_ready": 1, "reactor_stalled_parts": 0, `reactor_part_state{part="database"}`: 0, `reactor_part_state{part="jobs"}`: 0,
		"reactor_jobs_pending": 0, // those of the next hour wait in the table
	} {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s is %v, want %v", name, value, want)
		}
	}
	for bound, least := range map[string]float64{"reactor_lateness_seconds": 50, "reactor_launch_lateness_seconds": 50} {
		// Those that were ten seconds late when they were inserted, and no others unless the machine is very slow.
		if later := got[bound+"_count"] - got[bound+`_bucket{le="8.192"}`]; later < least {
			t.Errorf("%s: %v values above 8 s, want %v", bound, later, least)
		}
	}
	if launched, claimed := got["reactor_launch_lateness_seconds_count"], got["reactor_jobs_claimed_total"]; launched != got["reactor_jobs_launched_total"] || launched < received || claimed < launched || got["reactor_claim_jobs_sum"] != claimed {
		t.Errorf("claimed %v (in all claims %v), launched %v (%v)", claimed, got["reactor_claim_jobs_sum"], launched, got["reactor_jobs_launched_total"])
	}
	for name, most := range map[string]float64{"reactor_clock_offset_seconds": 0.5, "reactor_clock_error_seconds": 0.5, "reactor_last_beat_seconds": 30, "reactor_window_messages": 1e6, "reactor_database_connections_max": 10} {
		if value, ok := got[name]; !ok || math.Abs(value) > most {
			t.Errorf("%s is %v, %v", name, value, ok)
		}
	}
	if got["reactor_window_messages"] < 3 || got[`reactor_database_connections{state="idle"}`]+got[`reactor_database_connections{state="in_use"}`] < 2 {
		t.Errorf("a window of %v messages, %v idle connections", got["reactor_window_messages"], got[`reactor_database_connections{state="idle"}`])
	}

	// The next job that will be due.
	exec(t, ctx, db, "INSERT INTO jobs (topic, fire_at) VALUES ('job/next', now() + interval '20 seconds')")
	for got["reactor_jobs_pending"] != 1 {
		got = scrape(t, ctx, address)
	}
	if next, ok := got["reactor_next_due_seconds"]; !ok || next <= 0 || next > 20 {
		t.Errorf("the next job is due in %v s, %v", next, ok)
	}
}

// timed is an instance with known times.
func timed(values ...time.Duration) fakeInstance {
	var timing reactor.Timing
	for _, v := range values { // in order, and ends of buckets
		timing.Buckets = append(timing.Buckets, reactor.Bucket{Most: v.Microseconds(), Count: 1})
		timing.Sum += v
	}
	timing.Count = int64(len(values))
	return fakeInstance{stats: reactor.Stats{Accepted: timing, ClaimSizes: reactor.Sizes{Count: 2, Sum: 513, Max: 512, Buckets: []reactor.Bucket{{Most: 1, Count: 1}, {Most: 512, Count: 1}}}}}
}

// TestHistograms: both forms of a histogram have every value once, the classic one in the text.
func TestHistograms(t *testing.T) {
	t.Parallel()
	values := []time.Duration{
		time.Microsecond, 125 * time.Microsecond, 126 * time.Microsecond, 999 * time.Microsecond, time.Millisecond, 1004 * time.Microsecond,
		time.Second, 1024 * time.Millisecond, time.Minute,
	}
	h := handler(timed(values...), nil, false)
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	text := parseSamples(t, answer.Body.String())
	for name, want := range map[string]float64{
		`reactor_lateness_seconds_bucket{le="0.000125"}`: 2, `reactor_lateness_seconds_bucket{le="0.00025"}`: 3, `reactor_lateness_seconds_bucket{le="0.001"}`: 5,
		`reactor_lateness_seconds_bucket{le="0.002"}`: 6, `reactor_lateness_seconds_bucket{le="1.024"}`: 8, `reactor_lateness_seconds_bucket{le="32.768"}`: 8,
		`reactor_lateness_seconds_bucket{le="+Inf"}`: 9, "reactor_lateness_seconds_count": 9, "reactor_lateness_seconds_sum": 62.027255,
		`reactor_claim_jobs_bucket{le="1"}`: 1, `reactor_claim_jobs_bucket{le="256"}`: 1, `reactor_claim_jobs_bucket{le="512"}`: 2, "reactor_claim_jobs_sum": 513,
		`reactor_ack_seconds_bucket{le="0.001"}`: 0, "reactor_ack_seconds_count": 0,
	} {
		if value, ok := text[name]; !ok || math.Abs(value-want) > 1e-9 {
			t.Errorf("%s is %v (%v), want %v", name, value, ok, want)
		}
	}
	native := families(t, h)["reactor_lateness_seconds"].GetMetric()[0].GetHistogram()
	if native.GetSampleCount() != 9 || len(native.GetBucket()) != len(timeBounds) {
		t.Errorf("it has %d values, and %d classic buckets", native.GetSampleCount(), len(native.GetBucket()))
	}
	var unpacked []string // the ends of the buckets, in milliseconds, and their counts
	index, count, next := int32(0), int64(0), 0
	for _, span := range native.GetPositiveSpan() {
		index += span.GetOffset()
		for range span.GetLength() {
			count += native.GetPositiveDelta()[next]
			unpacked = append(unpacked, fmt.Sprintf("%.3f:%d", 1000*math.Pow(2, float64(index)/8), count))
			index, next = index+1, next+1
		}
	}
	want := []string{"0.001:1", "0.133:2", "1.065:3", "1000.000:1", "1090.508:1", "64000.000:1"}
	if next != len(native.GetPositiveDelta()) || !slices.Equal(unpacked, want) || native.GetSchema() != nativeSchema {
		t.Errorf("the native buckets are %v, want %v", unpacked, want)
	}
	if empty := families(t, h)["reactor_ack_seconds"].GetMetric()[0].GetHistogram(); len(empty.GetPositiveSpan()) != 1 || empty.GetSampleCount() != 0 {
		t.Errorf("a histogram without values is %v", empty)
	}
}

// ourMetrics are the names of all metrics that an instance may have.
func ourMetrics(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, c := range []prometheus.Collector{collector{fakeInstance{}}, poolCollector{}, spanCollector{}, buildInfo()} {
		descs := make(chan *prometheus.Desc)
		go func() {
			defer close(descs)
			c.Describe(descs)
		}()
		for d := range descs {
			names[regexp.MustCompile(`fqName: "(\w+)"`).FindStringSubmatch(d.String())[1]] = true
		}
	}
	return names
}

// documented are the names in the tables of docs/monitoring.md.
func documented(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, match := range regexp.MustCompile("(?m)^\\| `(reactor_\\w+)").FindAllStringSubmatch(string(text), -1) {
		names = append(names, match[1])
	}
	return names
}

// TestMetricsAreDocumented: every metric is in the documentation, once, and everything there is a metric.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	names, said := ourMetrics(t), documented(t)
	if got, want := slices.Sorted(slices.Values(said)), slices.Sorted(maps.Keys(names)); !slices.Equal(got, want) {
		for _, name := range want {
			if !slices.Contains(got, name) {
				t.Errorf("docs/monitoring.md lacks %s", name)
			}
		}
		for _, name := range got {
			if !names[name] {
				t.Errorf("docs/monitoring.md has %s, which is no metric", name)
			}
		}
		if !t.Failed() {
			t.Error("docs/monitoring.md has a metric twice")
		}
	}
}

// TestMetricsHaveFewLabels: whatever the jobs are, the number of series stays the same.
func TestMetricsHaveFewLabels(t *testing.T) {
	t.Parallel()
	allowed := map[string]int{"kind": 3, "part": 7, "state": 4, "le": 0, "version": 1, "revision": 1, "goversion": 1}
	for name, family := range families(t, handler(fakeInstance{}, nil, false, poolCollector{source: testSource(t)})) {
		if !strings.HasPrefix(name, "reactor_") {
			continue
		}
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if most, ok := allowed[label.GetName()]; !ok || len(family.GetMetric()) > most {
					t.Errorf("%s has the label %s, in %d series", name, label.GetName(), len(family.GetMetric()))
				}
			}
		}
	}
}
