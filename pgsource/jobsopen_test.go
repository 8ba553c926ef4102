package pgsource_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// openJobs opens Jobs for the test.
func (b *bench) openJobs(url string, cfg pgsource.OpenJobsConfig) *pgsource.Jobs {
	b.t.Helper()
	j, err := pgsource.OpenJobs(url, cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(j.Close)
	return j
}

// look runs with a JobsAdmin of Jobs.
func (b *bench) look(j *pgsource.Jobs, do func(*pgsource.JobsAdmin) error) {
	b.t.Helper()
	if err := j.Look(b.ctx, do); err != nil {
		b.t.Fatal(err)
	}
}

func seesStatus(b *bench) func(*pgsource.JobsAdmin) error {
	return func(a *pgsource.JobsAdmin) error {
		_, err := a.Status(b.ctx)
		return err
	}
}

const (
	fromSessions = " FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'page'"
	sessions     = "SELECT count(*)" + fromSessions
	noSessions   = "SELECT count(*) = 0" + fromSessions
)

// TestJobsStayOpen: connections are opened when they are needed, used by one at a time, replaced when they are lost, and
// closed when nobody uses them.
func TestJobsStayOpen(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	ids := b.insert(2, "1 hour")
	j := b.openJobs(b.url, pgsource.OpenJobsConfig{Application: "page"})
	if n := b.count(sessions); n != 0 {
		t.Errorf("%d connections before somebody looks", n)
	}
	var together sync.WaitGroup
	for range 8 {
		together.Go(func() {
			if err := j.Look(b.ctx, seesStatus(b)); err != nil {
				t.Error(err)
			}
		})
	}
	together.Wait()
	if n := b.count(sessions); n != 1 {
		t.Errorf("%d connections to look", n)
	}
	cancel := func(a *pgsource.JobsAdmin) error {
		return a.Act(b.ctx, pgsource.CancelJobs(), ids[:1], pgsource.JobFilter{}, func(pgsource.JobOutcome) error { return nil })
	}
	if err := j.Look(b.ctx, cancel); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("who looks cancels: %v", err)
	}
	if err := j.Change(b.ctx, cancel); err != nil {
		t.Error(err)
	}
	if n := b.count("SELECT count(*) FROM jobs"); n != 1 {
		t.Errorf("%d jobs are left of 2", n)
	}
	b.exec("SELECT pg_terminate_backend(pid)" + fromSessions)
	b.until(b.conn, "the connections are cut", noSessions)
	b.look(j, seesStatus(b))
	if err := j.Change(b.ctx, seesStatus(b)); err != nil {
		t.Error(err)
	}
	// Whoever panics leaves the connection to others.
	func() {
		defer func() { _ = recover() }()
		_ = j.Look(b.ctx, func(*pgsource.JobsAdmin) error { panic("a bug") })
	}()
	b.look(j, seesStatus(b))
	j.Close()
	if err := j.Look(b.ctx, seesStatus(b)); err == nil {
		t.Error("it looks after Close")
	}

	idle := b.openJobs(b.url, pgsource.OpenJobsConfig{Application: "page", IdleTime: 10 * time.Millisecond, ReadOnly: true})
	b.look(idle, seesStatus(b))
	b.until(b.conn, "nobody looks", noSessions)
	b.look(idle, seesStatus(b))
	if err := idle.Change(b.ctx, cancel); !errors.Is(err, pgsource.ErrReadOnlyJobs) {
		t.Errorf("it changes: %v", err)
	}
}

// TestJobsWaitForNobody: a statement that takes too long is ended by the server, and the connection stays.
func TestJobsWaitForNobody(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	j := b.openJobs(b.url, pgsource.OpenJobsConfig{StatementTimeout: 50 * time.Millisecond, Application: "page"})
	b.exec("BEGIN; LOCK TABLE jobs")
	err := j.Look(b.ctx, seesStatus(b))
	if err == nil || !strings.Contains(err.Error(), "longer than 50ms") {
		t.Errorf("while the table is locked: %v", err)
	}
	b.exec("ROLLBACK")
	b.look(j, seesStatus(b))
	for _, cfg := range []pgsource.OpenJobsConfig{{StatementTimeout: -1}, {IdleTime: -1}, {Names: pgsource.Names{Schema: "A b"}}} {
		_, err := pgsource.OpenJobs(b.url, cfg)
		if bad := (*driver.ConfigError)(nil); !errors.As(err, &bad) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	if _, err := pgsource.OpenJobs("", pgsource.OpenJobsConfig{}); err == nil {
		t.Error("it takes an empty connection string")
	}
}
