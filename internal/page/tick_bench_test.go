package page

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// BenchmarkTick is what a second costs an instance that five look at: all parts are drawn, and those that have changed are
// written to each. Everything has changed, which is more than happens. One millisecond a second is 0.1 % of a core.
func BenchmarkTick(b *testing.B) {
	p, err := New(Config{Instance: fakeInstance{healthy}, Name: "one", Jobs: noDatabase{}, Address: fakeAddress{}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.Close)
	n := 0
	reading := func() reading {
		n++
		s := pgsource.Status{At: driver.DBTimeOf(time.Now()), Owners: make([]int64, driver.Shards)}
		for i := range 5 {
			history := driver.History{Slice: driver.HistorySlice, Until: driver.DBTime(int64(n+1000) * driver.HistorySlice.Microseconds())}
			for j := range driver.HistorySlices {
				at := time.Duration(n + i + j)
				history.Slices = append(history.Slices, driver.Slice{Jobs: 50_000 + int64(at), P50: at * time.Microsecond, P99: at * time.Millisecond, Max: at * 10 * time.Millisecond})
			}
			s.Instances = append(s.Instances, pgsource.InstanceStatus{ID: int64(i), Name: fmt.Sprintf("instance-%d", i), Dynamic: true, Snapshot: &driver.Snapshot{Ready: true, Published: int64(n), History: history}})
			s.Next = append(s.Next, pgsource.NextJob{ID: int64(n + i), Topic: "plant/1", FireAt: s.At})
		}
		for i := range s.Owners {
			s.Owners[i] = int64((i + n) % 5)
		}
		for lane := range 40 {
			s.Lanes = append(s.Lanes, pgsource.LaneStatus{Lane: lane, Instance: "instance-1", InFlight: int64(n)})
		}
		return reading{at: time.Now(), tried: true, status: s, rate: float64(n)}
	}
	written := 0
	for b.Loop() {
		p.hub.known = reading()
		p.hub.makeState(context.Background())
		for range 5 {
			for _, f := range p.hub.newest.fragments {
				size, _ := io.Discard.Write(f.event)
				written += size
			}
		}
	}
	b.ReportMetric(float64(written)/float64(5*b.N), "B/viewer")
}

type fakeAddress struct{}

func (fakeAddress) Network() string { return "tcp" }
func (fakeAddress) String() string  { return "127.0.0.1:9883" }
