package alarm

import (
	"math"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAlarmIsNeverEarly(t *testing.T) {
	a, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for _, d := range []time.Duration{-time.Second, 0, 1, time.Microsecond, time.Millisecond, 20 * time.Millisecond} {
		start := time.Now()
		a.Set(d)
		<-a.C()
		if took := time.Since(start); took < d {
			t.Errorf("set to %v, expired after %v", d, took)
		}
	}
}

func TestSetReplaces(t *testing.T) {
	a, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for _, far := range []time.Duration{time.Hour, math.MaxInt64} {
		a.Set(far)
		a.Set(time.Millisecond)
		<-a.C()
	}
}

// A test must not set the clock of the machine that runs it. So only a test by hand has shown that
// ClockWatch reports a change.
func TestClockWatchIsSilentUntilClosed(t *testing.T) {
	w := WatchClock()
	w.Close()
	select {
	case <-w.C():
		t.Error("ClockWatch reports that the clock was set, but it was not")
	default:
	}
}

// BenchmarkLateness compares how late an Alarm and a time.Timer wake a goroutine.
func BenchmarkLateness(b *testing.B) {
	const pause = 3 * time.Millisecond
	b.Run("alarm", func(b *testing.B) {
		a, err := New()
		if err != nil {
			b.Fatal(err)
		}
		defer a.Close()
		late(b, pause, func() { a.Set(pause); <-a.C() })
	})
	b.Run("time.Timer", func(b *testing.B) {
		t := time.NewTimer(time.Hour)
		late(b, pause, func() { t.Reset(pause); <-t.C })
	})
}

func late(b *testing.B, pause time.Duration, wait func()) {
	var sum time.Duration
	for b.Loop() {
		start := time.Now()
		wait()
		sum += time.Since(start) - pause
	}
	b.ReportMetric(float64(sum.Microseconds())/float64(b.N), "µs-late")
}
