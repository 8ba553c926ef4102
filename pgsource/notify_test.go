package pgsource_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// listen collects hints until the test ends.
func listen(t *testing.T, ctx context.Context, s *pgsource.Source) (<-chan reactor.Hint, <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	hints, ended := make(chan reactor.Hint, 1000), make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ended <- s.Listen(ctx, func(h reactor.Hint) { hints <- h })
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	if h := <-hints; h.Kind != reactor.HintConnected {
		t.Fatalf("the first hint is %+v", h)
	}
	return hints, ended
}

func TestHints(t *testing.T) {
	b := newBench(t)
	hints, _ := listen(t, b.ctx, b.Source)

	b.insert(1, "1 hour") // beyond the notify horizon: silence, then
	ids := b.insert(20000, "5 seconds")
	if h := <-hints; h.Kind != reactor.HintJobs || h.MinID != ids[0] || h.MaxID != ids[len(ids)-1] {
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
	b.exec("NOTIFY reactor_jobs, 'what is this'")
	if h := <-hints; h.Kind != reactor.HintConnected {
		t.Fatalf("an unreadable hint: %+v, want a reason to sweep", h)
	}
	b.exec("NOTIFY reactor_membership")
	if h := <-hints; h.Kind != reactor.HintMembership {
		t.Fatalf("membership: %+v", h)
	}
}

// TestHalfOpenFeed: a connection on which nothing arrives any more looks like one on
// which nothing happens.
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
