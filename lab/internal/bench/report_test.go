package bench

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// sampleResult has all that can be drawn, and a name that must not become a part of the page.
func sampleResult() Result {
	measured := func(name string, times float64) Measurement {
		m := Measurement{
			Name: name, Jobs: 1000, Seconds: 2, PublishedPerSecond: 500, LatenessMillis: Percentiles{P50: times, P99: 3 * times, Max: 9 * times},
			Arrivals: slices.Repeat([]int{50, 48, 52}, 7), Usage: []Usage{{Name: "postgres", CPUSeconds: times / 10}, {Name: "instance 1", CPUSeconds: 0.1}, {Name: "instance 2", CPUSeconds: 0.1}},
			Slices: []Slice{{FromSeconds: 0, ToSeconds: 1, Jobs: 500, P50: times, P99: 2 * times}, {FromSeconds: 1, ToSeconds: 2, Jobs: 500, P50: times, P99: 3 * times}},
		}
		for i := range Percents {
			m.Distribution = append(m.Distribution, times*float64(i))
		}
		return m
	}
	floor, baseline := measured(floorName, 0.2), measured(baselineName, 25)
	r := Result{
		At: time.Date(2026, 11, 29, 20, 26, 0, 0, time.UTC), CPUs: 2, Go: "go1.26", PostgreSQL: "15.18 (Debian)", Fsync: "off", Delivery: "exactly-once", Instances: 1, Lanes: 3,
		Load: Load{Jobs: 1000, Rate: 500, PayloadBytes: 40}, RoundCount: 3, Floor: &floor, Baseline: &baseline,
		Reactor: measured(reactorName, 0.3), Variants: []Measurement{measured(`reactor --x=<script>alert("1")</script>`, 0.4)},
	}
	r.Reactor.Internals = &Internals{JobsPerClaim: 3.4, ClaimSizes: []ClaimSize{{1, 20}, {2, 40}, {4, 7}, {0, 1}}}
	r.Reactor.ToFloor = r.Reactor.ratioTo(floor)
	return r
}

// TestReport: the page has all charts and tables, is complete in itself, and its names stay text.
func TestReport(t *testing.T) {
	var out bytes.Buffer
	if err := sampleResult().Report(&out); err != nil {
		t.Fatal(err)
	}
	page := out.String()
	d := xml.NewDecoder(strings.NewReader(page))
	d.AutoClose, d.Entity = xml.HTMLAutoClose, xml.HTMLEntity
	d.Strict = false
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{
		"Every job arrived once", "evenly at 500 a second", "29 November 2026, 20:26 UTC", ">× the floor, p50<", ">% of a core<", ">claim<", ">0.30<",
		`id="lateness-t"`, `id="multiples-t"`, `id="throughput-t"`, `id="slices-t"`, `id="cpu-t"`, `id="claims-0-t"`, "reactor: 230, postgres 30", "3–4: 7",
		"prefers-color-scheme:dark", `name="viewport"`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the report does not contain %q", want)
		}
	}
	for _, bad := range []string{"<script", " src=", "href=", "url(", "@import", "ZgotmplZ"} {
		if strings.Contains(page, bad) {
			t.Errorf("the report contains %q", bad)
		}
	}
	if links := regexp.MustCompile(`https?://[^"]*`).FindAllString(strings.ReplaceAll(page, `xmlns="http://www.w3.org/2000/svg"`, ""), -1); len(links) > 0 {
		t.Errorf("the report names %q", links)
	}
	if ids := regexp.MustCompile(` id="[^"]*"`).FindAllString(page, -1); len(ids) != len(slices.Compact(slices.Sorted(slices.Values(ids)))) {
		t.Errorf("two elements have the same id: %q", ids)
	}
}

func TestReportOfFailures(t *testing.T) {
	r := sampleResult()
	r.Variants[0].Lost, r.Reactor.Beside = 2, &Measurement{Early: 1}
	idle := Result{Load: Load{Idle: time.Minute}, Reactor: Measurement{Name: reactorName, Seconds: 60, Usage: []Usage{{Name: "instance 1", CPUSeconds: 0.3}}}}
	for want, r := range map[string]Result{"2 lost, 0 duplicated, 1 early": r, "0.5 %": idle} {
		var out bytes.Buffer
		if err := r.Report(&out); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("error %v; the report does not contain %q:\n%s", err, want, &out)
		}
	}
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	if err := sampleResult().Table(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		" floor   baseline   reactor   reactor --x=<script>", "published /s     500        500       500", "83.3 × as late as reactor at p50, 83.3 × at p99: baseline\n",
		"inside reactor, ms   mean    p50    p99    max   jobs each", "reactor, from s   to   jobs", "instance 2    0.10          5.00      100.0 ",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table does not contain %q:\n%s", want, &out)
		}
	}
}

func TestParseClaimSizes(t *testing.T) {
	sizes, err := parseClaimSizes(strings.NewReader(`# TYPE reactor_claim_jobs histogram
reactor_claim_jobs_bucket{le="1"} 20
reactor_claim_jobs_bucket{le="2"} 60
reactor_claim_jobs_bucket{le="1.048576e+06"} 61
reactor_claim_jobs_bucket{le="+Inf"} 63
reactor_claim_jobs_sum 200
`))
	if want := []ClaimSize{{1, 20}, {2, 40}, {1 << 20, 1}, {0, 2}}; err != nil || !slices.Equal(sizes, want) {
		t.Errorf("%v, %v, want %v", sizes, err, want)
	}
	if _, err := parseClaimSizes(strings.NewReader(claimSizesMetric + `le="1"} many`)); err == nil {
		t.Error("a count that is no number was accepted")
	}
}
