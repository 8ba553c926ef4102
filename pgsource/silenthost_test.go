package pgsource_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// TestSilentHost: the first of two hosts stops answering, like one whose packets are dropped. The
// statements go on at the other; and an instance that starts meanwhile works at once.
//
// Trying the first host alone takes longer than a heartbeat may, so that the instance never came
// back when connections were given up with the statement that waited for them.
func TestSilentHost(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	proxy := testkit.NewProxy(t, b.url)
	both := hosts(t, proxy.Through(b.url), b.url)
	b.start(both)
	if proxy.Accepted() == 0 {
		t.Fatal("the first host is not tried first")
	}
	proxy.Stall()
	proxy.BlackHole()
	ids := b.insert(3, "-1 second")
	for {
		_, err := b.member.Beat(b.ctx)
		if err == nil {
			break
		}
		if b.ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	for {
		batch, err := b.Claim(b.ctx, b.request(ids))
		if err == nil {
			if len(batch.Jobs) != len(ids) {
				t.Errorf("claimed %+v", batch)
			}
			break
		}
		if unknown := new(driver.UnknownError); errors.As(err, &unknown) || b.ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	// Another connection does not wait for the silent host.
	tried := proxy.Accepted()
	b.Expect(4)
	b.until(b.conn, "more connections", "SELECT count(*) >= 5 FROM pg_stat_activity WHERE application_name LIKE 'reactor-%'")
	if again := proxy.Accepted(); again != tried {
		t.Errorf("the silent host was tried %d times more", again-tried)
	}
	open(t, b.ctx, pgsource.Config{DatabaseURL: both})
}

// TestFeedLeavesReadOnlyServer: a primary turns read-only and keeps its sessions, and a standby takes
// over. The connection of the feed works for as long as the old server runs; but the jobs are
// announced at the new one.
func TestFeedLeavesReadOnlyServer(t *testing.T) {
	t.Parallel()
	primary := testkit.OwnPostgres(t, ownServer)
	b := examine(t, primary.URL())
	b.migrateUp(b.url)
	standby := testkit.Standby(t, primary)
	b.Source = open(t, b.ctx, pgsource.Config{DatabaseURL: hosts(t, primary.URL(), standby.URL()), Feed: pgsource.FeedNotify, FeedCheck: time.Hour})
	b.member, b.lease = b.join(b.Source)
	told, ended := listen(t, b.ctx, b.Source)
	if err := standby.CatchUp(b.ctx, primary); err != nil {
		t.Fatal(err)
	}
	if err := primary.SetReadOnly(b.ctx, true); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(b.ctx); err != nil {
		t.Fatal(err)
	}
	b.eventuallyBeats()
	select {
	case err := <-ended:
		t.Log(err)
	case <-b.ctx.Done():
		t.Fatal("the feed stays at the old primary")
	}
	if h := <-told; h.Kind != driver.HintFailover {
		t.Errorf("the feed ends with %+v", h)
	}
	hints, _ := listen(t, b.ctx, b.Source)
	after := examine(t, standby.URL())
	after.insert(2, "1 second")
	select {
	case h := <-hints:
		if h.Kind != driver.HintJobs {
			t.Errorf("a hint %+v", h)
		}
	case <-b.ctx.Done():
		t.Fatal("the feed is not at the new primary")
	}

	// Nothing is claimed before the lane's journal was read at the new primary.
	if n := b.FeedState().Failovers; n != 1 {
		t.Errorf("%d failovers", n)
	}
	ids := after.insert(2, "-1 second")
	if _, err := b.Claim(b.ctx, b.request(ids)); err == nil || !strings.Contains(err.Error(), "failed over") {
		t.Errorf("a claim with what was known of the old primary: %v", err)
	}
	if _, err := b.Unsettled(b.ctx, b.lease, 1); err != nil {
		t.Fatal(err)
	}
	if batch := b.claim(ids); len(batch.Jobs) != 2 {
		t.Errorf("claimed %+v", batch)
	}

	// The old primary takes writes again. It is not used, not even when the new one is away.
	if err := primary.SetReadOnly(b.ctx, false); err != nil {
		t.Fatal(err)
	}
	if err := standby.StopImmediate(); err != nil {
		t.Fatal(err)
	}
	for why := ""; !strings.Contains(why, "is a former primary (on timeline 1, the latest is 2)"); {
		_, err := b.member.Beat(b.ctx)
		if err == nil || b.ctx.Err() != nil {
			t.Fatalf("a beat at a former primary says %v", err)
		}
		why = err.Error()
	}
}
