package pgsource_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// TestReadOnlyWhileRunning: a former primary keeps its sessions, which cannot be used.
func TestReadOnlyWhileRunning(t *testing.T) {
	server := testkit.OwnPostgres(t, ownServer)
	b := examine(t, server.URL())
	b.migrateUp(b.url)
	b.start(b.url)
	ids := b.insert(3, "-1 second")
	b.Expect(7)
	b.until(b.conn, "all connections", "SELECT count(*) = 8 FROM pg_stat_activity WHERE application_name LIKE 'reactor-%'")
	var before time.Time
	if err := b.conn.QueryRow(b.ctx, "SELECT clock_timestamp()").Scan(&before); err != nil {
		t.Fatal(err)
	}
	if err := server.SetReadOnly(b.ctx, true); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		_, err := b.Claim(b.ctx, b.request(ids))
		var unknown *driver.UnknownError
		if err == nil || errors.As(err, &unknown) {
			t.Fatalf("a claim on a read-only server says %v", err)
		}
	}
	// A claim that was not sent reports the reason in one line.
	if _, err := b.Claim(b.ctx, b.request(ids)); !strings.Contains(err.Error(), "read-only") || strings.Contains(err.Error(), "\n") {
		t.Errorf("it says %v", err)
	}
	// One that was still being made when the others were given up is found out by its first use,
	// so claims go on, as an instance's do.
	for left := 1; left > 0; {
		if _, err := b.Claim(b.ctx, b.request(ids)); err == nil {
			t.Fatal("claimed on a read-only server")
		}
		left = b.count("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'reactor-%' AND backend_start < $1", before)
		if b.ctx.Err() != nil {
			t.Fatalf("%d of the old connections do not end", left)
		}
	}
	if err := server.SetReadOnly(b.ctx, false); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if batch := b.claim(ids); len(batch.Jobs) != 3 {
		t.Errorf("claimed %+v", batch)
	}
	b.eventuallyBeats()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it works again after %v", took)
	}
}

// TestHosts: of several in the URL the primary is found, whichever comes first, also by the
// connections that are made after a change.
func TestHosts(t *testing.T) {
	primary := testkit.OwnPostgres(t, ownServer)
	b := examine(t, primary.URL())
	b.migrateUp(b.url)
	standby := testkit.Standby(t, primary)
	if err := standby.CatchUp(b.ctx, primary); err != nil {
		t.Fatal(err)
	}
	both := hosts(t, standby.URL(), primary.URL())
	b.migrateUp(both)
	b.start(both)
	b.wholePath()
	page := b.openJobs(both, pgsource.OpenJobsConfig{})
	looks := func() (failed error) {
		return page.Look(b.ctx, func(a *pgsource.JobsAdmin) error {
			_, err := a.Show(b.ctx, 6)
			return err
		})
	}
	if err := looks(); !errors.Is(err, pgsource.ErrNoJob) {
		t.Errorf("before job 6 is there, who looks is told %v", err)
	}
	if why := b.refused(pgsource.Config{DatabaseURL: standby.URL()}); !strings.Contains(why, "the address of the primary") {
		t.Error(why)
	}
	if s := examine(t, standby.URL()).status(); s.SchemaVersion != 7 { // to look, a standby serves
		t.Errorf("the status of the standby: %+v", s)
	}

	// The two servers change roles.
	b.insert(2, "-1 second")
	if err := standby.CatchUp(b.ctx, primary); err != nil {
		t.Fatal(err)
	}
	if err := primary.StopImmediate(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(b.ctx); err != nil {
		t.Fatal(err)
	}
	after := examine(t, standby.URL())
	if err := looks(); err != nil { // the first look after the failover
		t.Error(err)
	}
	if err := page.Change(b.ctx, func(a *pgsource.JobsAdmin) error {
		return a.Act(b.ctx, pgsource.FireJobs(), []int64{6}, pgsource.JobFilter{}, func(pgsource.JobOutcome) error { return nil })
	}); err != nil {
		t.Error(err)
	}
	var err error
	for b.ctx.Err() == nil {
		var batch driver.Batch
		if b.FeedState().Failovers > 0 { // as an instance does
			_, _ = b.Unsettled(b.ctx, b.lease, 1)
		}
		batch, err = b.Claim(b.ctx, driver.ClaimRequest{QoS: 1, Lease: b.lease, IDs: []int64{6, 7}, FirstSlot: 1, Reach: 512, Bytes: 1 << 20, Token: [16]byte{1}})
		if err == nil {
			if len(batch.Jobs) != 2 {
				t.Errorf("claimed %+v", batch)
			}
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if n := b.FeedState().Failovers; n != 1 {
		t.Errorf("%d failovers were counted", n)
	}
	if n := after.count("SELECT count(*) FROM jobs WHERE processed AND id IN (6, 7)"); n != 2 {
		t.Errorf("%d of 2 jobs are claimed at the new primary", n)
	}
}

// hosts returns a URL with the hosts of two URLs.
func hosts(t *testing.T, first, second string) string {
	t.Helper()
	_, a, _ := strings.Cut(first, "127.0.0.1:")
	_, b, _ := strings.Cut(second, "127.0.0.1:")
	portA, _, _ := strings.Cut(a, "/")
	portB, rest, _ := strings.Cut(b, "/")
	head, _, _ := strings.Cut(second, "127.0.0.1:")
	return head + "127.0.0.1:" + portA + ",127.0.0.1:" + portB + "/" + rest
}

// TestReadOnlyDatabaseAtTheStart is refused in one line.
func TestReadOnlyDatabaseAtTheStart(t *testing.T) {
	server := testkit.OwnPostgres(t, ownServer)
	b := examine(t, server.URL())
	b.migrateUp(b.url)
	if err := server.SetDatabaseReadOnly(b.ctx, "postgres", true); err != nil {
		t.Fatal(err)
	}
	for what, url := range map[string]string{"plain": b.url, "with attributes": with(t, b.url, "target_session_attrs", "read-write")} {
		if why := b.refused(pgsource.Config{DatabaseURL: url}); !strings.Contains(why, "the database is read-only") {
			t.Errorf("%s: %s", what, why)
		}
	}
	if err := server.SetDatabaseReadOnly(context.Background(), "postgres", false); err != nil {
		t.Fatal(err)
	}
}
