package pgsource_test

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// listen collects hints until the test ends.
func listen(t testing.TB, ctx context.Context, s *pgsource.Source) (<-chan driver.Hint, <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	hints, ended := make(chan driver.Hint, 1000), make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ended <- s.Listen(ctx, func(h driver.Hint) { hints <- h })
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	for {
		select {
		case h := <-hints:
			switch h.Kind {
			case driver.HintConnected:
				return hints, ended
			case driver.HintFailover: // seen before the feed stands
			default:
				t.Fatalf("the first hint is %+v", h)
			}
		case err := <-ended:
			t.Fatalf("the feed does not begin: %v", err)
		}
	}
}

func TestNotifyHints(t *testing.T) {
	b := newBench(t)
	hints, _ := listen(t, b.ctx, b.Source)

	b.insert(1, "1 hour") // beyond the notify horizon: silence, then
	ids := b.insert(20000, "5 seconds")
	if h := <-hints; h.Kind != driver.HintJobs || h.MinID != ids[0] || h.MaxID != ids[len(ids)-1] {
		t.Fatalf("20,000 rows: %+v, want one hint for %d … %d", h, ids[0], ids[len(ids)-1])
	} else if due := time.Duration(h.Earliest-b.now()) * time.Microsecond; due < time.Second || due > 6*time.Second {
		t.Errorf("the earliest is due in %v", due)
	}
	b.exec("UPDATE jobs SET processed = true WHERE id = $1", ids[0]) // a cancellation: silence, then
	b.exec("DELETE FROM jobs WHERE id = $1", ids[1])
	b.exec("UPDATE jobs SET fire_at = now() WHERE id = $1", ids[2])
	if h := <-hints; h.MinID != ids[2] || h.MaxID != ids[2] {
		t.Fatalf("a rescheduled job: %+v, want %d", h, ids[2])
	}
	b.exec("NOTIFY reactor_membership")
	if h := <-hints; h.Kind != driver.HintMembership {
		t.Fatalf("membership: %+v", h)
	}
}

// TestJunk: notifications of other clients on our channel cause no reads, and at most one log line.
func TestJunk(t *testing.T) {
	b := newBench(t)
	var log logMeter
	s, err := pgsource.New(pgsource.Config{DatabaseURL: b.url, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(b.ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	hints, _ := listen(t, b.ctx, s)
	before := log.lines.Load()
	b.exec(`SELECT pg_notify('reactor_jobs', junk) FROM generate_series(1, 200) n, LATERAL unnest(ARRAY[
		repeat('x', 7000) || n, 'what ' || n, '', n::text, '1 ' || n, '1 2 3 x' || n, '1 2 3  ' || n, n + 1 || ' 1 0', '1 2 99999999999999999999' || n,
		'1  2 ' || n, '1 2 3x' || n]) junk`)
	b.exec("NOTIFY reactor_membership") // arrives after all of it
	if h := <-hints; h.Kind != driver.HintMembership {
		t.Errorf("junk made the hint %+v", h)
	}
	if n := log.lines.Load() - before; n != 1 {
		t.Errorf("junk made %d lines in the log, want 1", n)
	}
	if n := log.longest.Load(); n > 500 {
		t.Errorf("junk made a line of %d bytes", n)
	}
}

// logMeter counts the lines of a log.
type logMeter struct{ lines, longest atomic.Int64 }

func (m *logMeter) Write(line []byte) (int, error) {
	m.longest.Store(max(m.longest.Load(), int64(len(line))))
	m.lines.Add(1)
	return len(line), nil
}

// TestHalfOpenFeed: a connection on which nothing arrives any more looks like one on which nothing
// happens.
func TestHalfOpenFeed(t *testing.T) {
	b := newBench(t)
	proxy := testkit.NewProxy(t, b.url)
	s := open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, ListenURL: proxy.Through(b.url), FeedCheck: 50 * time.Millisecond})
	_, ended := listen(t, b.ctx, s)
	proxy.Drop(netfault.ToClient)
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "not even our own") {
			t.Fatalf("the feed ended with %v", err)
		}
	case <-b.ctx.Done():
		t.Fatal("the dead feed was not noticed")
	}
}
