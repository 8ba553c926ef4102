package reactor_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/netfault"
)

// peakMemory is the largest resident set of a process so far, in bytes.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.Atoi(strings.Fields(value)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatalf("no VmHWM in %s", status)
	return 0
}

// mostMemory is what an instance may take whatever is due.
const mostMemory = 128 << 20

// TestMemoryOfLargePayloads: behind a small job 160 MB are due in payloads of 8 MB. The broker
// stops answering, the instance is killed, and another recovers what it has claimed. Neither takes
// more memory than it may, and all are published once.
func TestMemoryOfLargePayloads(t *testing.T) {
	w := newWorld(t, "", "")
	proxy, err := netfault.New(strings.TrimPrefix(w.brokerURL, "mqtt://"))
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	w.insert(1, -time.Hour, -time.Hour)
	w.exec(`INSERT INTO jobs (topic, payload, fire_at)
		SELECT $1 || '/large', repeat(md5(n::text), 250000), now() - interval '1 minute' FROM generate_series(1, 20) n`, w.prefix)
	first := w.plainProcess(proxy)
	w.eventually("some are published, and others on their way", `
		SELECT (SELECT count(*) FROM jobs WHERE processed) >= 5 AND EXISTS (SELECT FROM reactor.in_flight)`)
	proxy.Stall(netfault.ToServer)
	w.eventually("it has claimed what it may", `
		SELECT count(*) >= 2 FROM reactor.in_flight f, unnest(f.job_ids[f.settled + 1:]) AS id JOIN jobs USING (id) WHERE octet_length(payload) > 1000`)
	peak := peakMemory(t, first.Pid())
	first.Kill(t)
	second := w.plainProcess(nil)
	w.judge()
	again := peakMemory(t, second.Pid())
	t.Logf("the first took %d MB at most, the second %d MB", peak>>20, again>>20)
	if peak > mostMemory || again > mostMemory {
		t.Errorf("%d and %d MB, want %d at most", peak>>20, again>>20, mostMemory>>20)
	}
}
