package pgsource_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// act returns how many jobs got which answer.
func (b *bench) act(action pgsource.JobAction, ids []int64, filter pgsource.JobFilter) map[string]int {
	b.t.Helper()
	answers, seen := map[string]int{}, map[int64]bool{}
	b.admin(func(a *pgsource.JobsAdmin) error {
		return a.Act(b.ctx, action, ids, filter, func(o pgsource.JobOutcome) error {
			if seen[o.ID] || o.Done != (o.Answer == action.Done) {
				b.t.Errorf("outcome %+v", o)
			}
			seen[o.ID] = true
			answers[o.Answer]++
			return nil
		})
	})
	if want := slices.Compact(slices.Sorted(slices.Values(ids))); len(seen) != len(want) {
		b.t.Errorf("%d answers for %d jobs", len(seen), len(want))
	}
	return answers
}

// TestActOnEachState: each action changes the jobs that it can change, and answers about the others.
func TestActOnEachState(t *testing.T) {
	t.Parallel()
	later := driver.DBTime(4_000_000_000_000_000)
	for _, c := range []struct {
		action pgsource.JobAction
		want   map[string]int
	}{
		{pgsource.CancelJobs(), map[string]int{"cancelled": 3, "locked by somebody": 1, "too late, firing now": 1, "already fired": 1, "already failed": 3, "not found": 1}},
		{pgsource.RescheduleJobs(later), map[string]int{"rescheduled": 3, "locked by somebody": 1, "too late, firing now": 1, "already fired": 1, "already failed": 3, "not found": 1}},
		{pgsource.FireJobs(), map[string]int{"due now": 3, "locked by somebody": 1, "too late, firing now": 1, "already fired": 1, "already failed": 3, "not found": 1}},
		{pgsource.RetryJobs(nil), map[string]int{"waiting": 3, "locked by somebody": 1, "too late, firing now": 1, "already fired": 1, "to be tried again": 3, "not found": 1}},
	} {
		t.Run(c.action.Name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			of, _ := b.eachState()
			if got := b.act(c.action, append(slices.Collect(maps.Values(of)), 999), pgsource.JobFilter{}); !maps.Equal(got, c.want) {
				t.Errorf("answers %v, want %v", got, c.want)
			}
			if n := b.count("SELECT count(*) FROM jobs WHERE fire_at = 'epoch'::timestamptz + interval '4000000000 seconds'"); (n == 3) != (c.action.Name == "reschedule") {
				t.Errorf("%d jobs were moved", n)
			}
		})
	}
}

// TestActInBulk: many jobs, in several transactions; those that do not pass the filter any more are
// left alone; one that a trigger protects does not keep the others from being changed.
func TestActInBulk(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.insert(1000, "1 hour")
	filter := pgsource.JobFilter{States: pgsource.CancelJobs().Acts, TopicPrefix: "t/"}
	var ids []int64
	b.admin(func(a *pgsource.JobsAdmin) (err error) {
		ids, err = a.Select(b.ctx, filter)
		return err
	})
	if len(ids) != 1000 {
		t.Fatalf("selected %d", len(ids))
	}
	b.exec("UPDATE jobs SET topic = 'mine' WHERE id <= 10; DELETE FROM jobs WHERE id = 11")
	b.exec(`CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF old.id = 500 THEN RAISE 'not this one'; END IF; RETURN old; END $$;
		CREATE TRIGGER keep BEFORE DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION keep()`)
	want := map[string]int{"cancelled": 988, "changed meanwhile": 10, "not found": 1, "refused: not this one (SQLSTATE P0001)": 1}
	if got := b.act(pgsource.CancelJobs(), ids, filter); !maps.Equal(got, want) {
		t.Errorf("answers %v, want %v", got, want)
	}
	if n := b.count("SELECT count(*) FROM jobs"); n != 11 {
		t.Errorf("%d jobs are left, want 11", n)
	}
}

// TestActStops: an error of the caller ends it, with what was done before committed.
func TestActStops(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ids := b.insert(450, "1 hour")
	enough := errors.New("enough")
	b.admin(func(a *pgsource.JobsAdmin) error {
		if err := a.Act(b.ctx, pgsource.CancelJobs(), ids, pgsource.JobFilter{}, func(pgsource.JobOutcome) error { return enough }); err != enough {
			t.Errorf("ended with %v", err)
		}
		return nil
	})
	if n := b.count("SELECT count(*) FROM jobs"); n != 250 {
		t.Errorf("%d jobs are left, want all but the first transaction's", n)
	}
}

// TestActByKey: a key means the job that has not fired, and for a retry the last one.
func TestActByKey(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	id := int64(b.count("INSERT INTO jobs (topic, fire_at, key) VALUES ('t', now(), 'k') RETURNING id"))
	by := func(action pgsource.JobAction, key string) (outcome pgsource.JobOutcome) {
		b.admin(func(a *pgsource.JobsAdmin) (err error) {
			outcome, err = a.ActByKey(b.ctx, action, key)
			return err
		})
		return outcome
	}
	for range 2 {
		b.refuse(b.claim([]int64{id}))
	}
	if got := by(pgsource.FireJobs(), "k"); got.Answer != "already failed" || got.Done {
		t.Errorf("fire: %+v", got)
	}
	if got := by(pgsource.RetryJobs(nil), "k"); !got.Done || got.ID != id {
		t.Errorf("retry: %+v", got)
	}
	if got := by(pgsource.CancelJobs(), "k"); !got.Done {
		t.Errorf("cancel: %+v", got)
	}
	for _, action := range []pgsource.JobAction{pgsource.CancelJobs(), pgsource.RetryJobs(nil)} {
		if got := by(action, "k"); got.Answer != "not found" {
			t.Errorf("%s: %+v", action.Name, got)
		}
	}
	// A failed job whose key was taken since.
	failed := int64(b.count("INSERT INTO jobs (topic, fire_at, key) VALUES ('t', now(), 'k') RETURNING id"))
	for range 2 {
		b.refuse(b.claim([]int64{failed}))
	}
	b.exec("INSERT INTO jobs (topic, fire_at, key) VALUES ('t', now() + interval '1 hour', 'k')")
	if got := b.act(pgsource.RetryJobs(nil), []int64{failed}, pgsource.JobFilter{}); got["replaced by a newer job with its key"] != 1 {
		t.Errorf("answers %v", got)
	}
}

// TestActHostileSearchPath: functions and operators that a producer has planted are not called.
func TestActHostileSearchPath(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ids := b.insert(3, "1 hour")
	b.exec(`CREATE FUNCTION public.trap(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'planted'; END $$;
		CREATE OPERATOR public.^@ (LEFTARG = text, RIGHTARG = text, FUNCTION = public.trap);
		CREATE FUNCTION public.octet_length(text) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RAISE 'planted'; END $$`)
	hostile := with(t, b.url, "options", "-csearch_path=public,pg_catalog")
	if err := pgsource.WithJobs(b.ctx, hostile, true, func(a *pgsource.JobsAdmin) error {
		if _, err := a.Show(b.ctx, ids[0]); err != nil {
			return err
		}
		if list, _, err := a.List(b.ctx, pgsource.JobFilter{TopicPrefix: "t/"}, pgsource.JobPage{}); err != nil || len(list) != 3 {
			t.Errorf("listed %v, %v", list, err)
		}
		return a.Act(b.ctx, pgsource.CancelJobs(), ids, pgsource.JobFilter{TopicPrefix: "t/"}, func(o pgsource.JobOutcome) error {
			if !o.Done {
				t.Errorf("%+v", o)
			}
			return nil
		})
	}); err != nil {
		t.Fatal(err)
	}
}

// TestJobsRights: an error says what a role lacks, in one line.
func TestJobsRights(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ids := b.insert(1, "1 hour")
	role, url := b.role("")
	b.exec("GRANT USAGE ON SCHEMA reactor TO " + role + "; GRANT SELECT ON ALL TABLES IN SCHEMA reactor TO " + role + "; GRANT SELECT ON jobs TO " + role)
	err := pgsource.WithJobs(b.ctx, url, true, func(a *pgsource.JobsAdmin) error {
		if list, _, err := a.List(b.ctx, pgsource.JobFilter{}, pgsource.JobPage{}); err != nil || len(list) != 1 {
			t.Errorf("a role that may read lists %v, %v", list, err)
		}
		return a.Act(b.ctx, pgsource.CancelJobs(), ids, pgsource.JobFilter{}, func(pgsource.JobOutcome) error { return nil })
	})
	if err == nil || !strings.HasSuffix(err.Error(), "run GRANT UPDATE, DELETE ON public.jobs TO "+role) || strings.Contains(err.Error(), "\n") {
		t.Errorf("without rights: %v", err)
	}
}
