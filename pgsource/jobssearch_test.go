package pgsource_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
)

// searched are the ids that a search finds, part by part, each of so many rows.
func (b *bench) searched(a *pgsource.JobsAdmin, filter pgsource.JobFilter, limit, rows int) (ids []int64, parts int) {
	b.t.Helper()
	for page := (pgsource.SearchPage{Limit: limit, Rows: rows}); ; {
		found, err := a.Search(b.ctx, filter, page)
		if err != nil {
			b.t.Fatal(err)
		}
		if len(found.Jobs) > limit {
			b.t.Errorf("%d jobs, more than %d", len(found.Jobs), limit)
		}
		ids = append(ids, idsOfList(found.Jobs)...)
		if parts++; found.Next == nil {
			return ids, parts
		}
		again, err := pgsource.ParseSearchCursor(found.Next.String())
		if err != nil || again != *found.Next {
			b.t.Fatalf("%v is read as %v, %v", found.Next, again, err)
		}
		page.After = found.Next
	}
}

// TestSearch finds what List lists, whatever is asked for and in however many parts, and each job once.
func TestSearch(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b *bench) {
		b.eachState()
		b.insert(300, "1 hour")
		b.exec("UPDATE jobs SET fire_at = fire_at + id * interval '1 minute', topic = 'even/' || id WHERE id > 9 AND id % 2 = 0; UPDATE jobs SET topic = 'rare/1', key = 'k' WHERE id = 77; UPDATE jobs SET processed = true, key = 'k' WHERE id = 99 OR id > 200")
		early, late := b.now().Add(2*time.Hour), b.now().Add(4*time.Hour)
		filters := []pgsource.JobFilter{{}, {TopicPrefix: "rare/"}, {TopicPrefix: "none"}, {Key: "k"}, {From: &early, Until: &late}, {IDs: []int64{1, 3, 77, 99, 250, 9999}}}
		states := [][]pgsource.JobState{
			nil,
			{pgsource.JobWaiting},
			{pgsource.JobWaiting, pgsource.JobRetrying, pgsource.JobBlocked},
			{pgsource.JobFired},
			{pgsource.JobWaiting, pgsource.JobFired},
			{pgsource.JobFailed, pgsource.JobExpired, pgsource.JobMissed, pgsource.JobBlocked},
			{pgsource.JobFiring, pgsource.JobReturning, pgsource.JobRetrying},
			{pgsource.JobFiring},
			{pgsource.JobReturning},
			{pgsource.JobRetrying, pgsource.JobBlocked},
		}
		b.admin(func(a *pgsource.JobsAdmin) error {
			for i, filter := range filters {
				for j, of := range states {
					filter.States = of
					list, _, err := a.List(b.ctx, filter, pgsource.JobPage{Limit: 1000})
					if err != nil {
						return err
					}
					want := slices.Sorted(slices.Values(idsOfList(list)))
					limit, rows := 80, 10_000
					if (i+j)%2 == 0 {
						limit, rows = 1000, 130
					}
					got, parts := b.searched(a, filter, limit, rows)
					if !slices.Equal(slices.Sorted(slices.Values(got)), want) {
						t.Errorf("%+v, %d rows a part: found %v, want %v", filter, rows, got, want)
					}
					if filter.TopicPrefix == "none" && of == nil && parts != 3 {
						t.Errorf("%d parts of 130 rows of 309", parts)
					}
				}
			}
			if got, _ := b.searched(a, pgsource.JobFilter{}, 100, 10_000); !slices.IsSortedFunc(got, func(x, y int64) int { return int(y - x) }) {
				t.Errorf("in the order %v", got)
			}
			ids, more, err := a.SelectSome(b.ctx, pgsource.JobFilter{TopicPrefix: "even/"}, 1000)
			if err != nil || more || len(ids) != 150 {
				t.Errorf("%d jobs, more %t, %v", len(ids), more, err)
			}
			ids, more, err = a.SelectSome(b.ctx, pgsource.JobFilter{}, 20)
			if err != nil || !more || len(ids) != 20 {
				t.Errorf("%d jobs, more %t, %v", len(ids), more, err)
			}
			found, err := a.Search(b.ctx, pgsource.JobFilter{}, pgsource.SearchPage{Limit: 1})
			if err != nil {
				return err
			}
			if _, err := a.Search(b.ctx, pgsource.JobFilter{States: []pgsource.JobState{pgsource.JobWaiting}}, pgsource.SearchPage{After: found.Next}); err == nil {
				t.Error("it goes on in another order")
			}
			return nil
		})
	})
}

// TestFailedGroups: the jobs that were not published are counted by reason, and a group is tried again or deleted as a
// whole.
func TestFailedGroups(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b *bench) {
		of, unlock := b.eachState()
		more := b.insert(3, "-1 second")
		for _, id := range more {
			for range 2 {
				b.refuse(b.claim([]int64{id}))
			}
		}
		b.exec("UPDATE reactor.failed_jobs SET reason = 'quota', code = 151 WHERE job_id = ANY ($1)", more[:2])
		b.exec("UPDATE jobs SET topic = 'other' WHERE id = $1", more[0])
		// One that is tried again, and one whose row is gone, are over.
		gone := b.insert(2, "-1 second")
		for _, id := range gone {
			for range 2 {
				b.refuse(b.claim([]int64{id}))
			}
		}
		b.exec("DELETE FROM jobs WHERE id = $1", gone[0])
		b.act(pgsource.RetryJobs(nil), gone[1:], pgsource.JobFilter{})
		groups := func(prefix string) (list []pgsource.FailedGroup) {
			t.Helper()
			b.admin(func(a *pgsource.JobsAdmin) (err error) {
				var more bool
				list, more, err = a.FailedGroups(b.ctx, prefix)
				if more {
					t.Error("there are more")
				}
				return err
			})
			return list
		}
		list := groups("")
		text := ""
		for _, g := range list {
			text += fmt.Sprintf("%s %d %q %d %d;", g.State, g.Code, g.Reason, g.Jobs, g.Example)
			if now := b.now(); g.First > g.Last || now.Sub(g.First) > time.Minute || now < g.Last {
				t.Errorf("from %v to %v", g.First, g.Last)
			}
		}
		want := fmt.Sprintf(`failed 135 "not authorized" 2 %d;failed 151 "quota" 2 %d;blocked 0 "a trigger says no" 1 %d;expired 135 "not authorized" 1 %d;missed 135 "not authorized" 1 %d;`,
			more[2], more[1], of[pgsource.JobBlocked], of[pgsource.JobExpired], of[pgsource.JobMissed])
		if text != want {
			t.Fatalf("the groups are %s want %s", text, want)
		}
		if list := groups("other"); len(list) != 1 || list[0].Jobs != 1 || list[0].Example != more[0] {
			t.Errorf("of one topic: %+v", list)
		}
		// By the levels of their topics.
		b.exec("UPDATE jobs SET topic = CASE id WHEN $1 THEN 'a/b' WHEN $2 THEN 'é/x' ELSE 'a/b/' || id END WHERE id = $1 OR id = $2 OR id = ANY ($3)", of[pgsource.JobExpired], of[pgsource.JobMissed], more[1:])
		for prefix, want := range map[string]string{
			"":     "t/ false 2;a/ false 3;other true 1;é/ false 1;",
			"a/":   "a/b/ false 2;a/b true 1;",
			"a/b":  "a/b/ false 2;a/b true 1;",
			"é/":   "é/x true 1;",
			"none": "",
		} {
			got := map[string]bool{}
			b.admin(func(a *pgsource.JobsAdmin) error {
				list, _, err := a.FailedTopics(b.ctx, prefix)
				for _, g := range list {
					got[fmt.Sprintf("%s %t %d", g.Topic, g.Whole, g.Jobs)] = true
				}
				return err
			})
			for _, group := range strings.Split(strings.TrimSuffix(want, ";"), ";") {
				if len(got) != strings.Count(want, ";") || group != "" && !got[group] {
					t.Errorf("below %q: %v, want %s", prefix, got, want)
				}
			}
		}
		b.admin(func(a *pgsource.JobsAdmin) error {
			ids, _, err := a.SelectSome(b.ctx, list[1].Filter(), 100)
			if !slices.Equal(slices.Sorted(slices.Values(ids)), more[:2]) {
				t.Errorf("of the group %+v: %v", list[1], ids)
			}
			return err
		})
		unlock()
		answers := b.act(pgsource.PurgeJobs(), []int64{more[0], more[1], of[pgsource.JobMissed], of[pgsource.JobFiring], of[pgsource.JobWaiting], of[pgsource.JobFired], of[pgsource.JobBlocked], 999}, pgsource.JobFilter{})
		if answers["deleted"] != 3 || answers["not failed"] != 4 || answers["not found"] != 1 {
			t.Errorf("answers %v", answers)
		}
		if n := b.count("SELECT (SELECT count(*) FROM jobs WHERE id = ANY ($1)) + (SELECT count(*) FROM reactor.failed_jobs WHERE job_id = ANY ($1))", []int64{more[0], more[1], of[pgsource.JobMissed]}); n != 0 {
			t.Errorf("%d rows are left", n)
		}
		if n := b.count("SELECT count(*) FROM jobs"); n != len(of)+len(more)+1-3 {
			t.Errorf("%d jobs are left", n)
		}
	})
}

// TestFuture: exact where there is room, otherwise from some of the shards, and never silently less.
func TestFuture(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	b.exec("INSERT INTO jobs (topic, fire_at) SELECT 't', now() + interval '10.5 seconds' + n % 20 * interval '1 second' FROM generate_series(1, 4000) n")
	b.exec("INSERT INTO jobs (topic, fire_at) VALUES ('t', now() - interval '1 hour'), ('t', now() + interval '10 days'), ('t', '294276-12-31'), ('t', '4713-01-01 BC'); INSERT INTO jobs (topic, fire_at, processed) VALUES ('t', now() + interval '30 seconds', true)")
	future := func(step time.Duration, steps int, rows int64) (f pgsource.Future) {
		t.Helper()
		b.admin(func(a *pgsource.JobsAdmin) (err error) {
			f, err = a.FutureOf(b.ctx, step, steps, rows)
			return err
		})
		return f
	}
	f := future(time.Second, 60, pgsource.FutureRows)
	if !f.Exact() || f.Total() != 4000 || slices.Max(f.Jobs) != 200 || f.Jobs[59] != 0 || f.Step != time.Second {
		t.Errorf("%+v", f)
	}
	if f := future(time.Hour, 24, pgsource.FutureRows); !f.Exact() || f.Jobs[0] != 4000 || f.Total() != 4000 {
		t.Errorf("%+v", f)
	}
	f = future(time.Second, 60, 1000)
	if f.Exact() || f.Cut != 60 || f.Sampled < 8 || f.Sampled > 32 || f.Total() < 3000 || f.Total() > 5000 {
		t.Errorf("of some shards: %+v", f)
	}
	f = future(time.Second, 60, 30)
	if f.Exact() || f.Sampled != 1 || f.Cut < 5 || f.Cut > 45 {
		t.Errorf("of a part of one: %+v", f)
	}
	for _, bad := range []int{0, -1, 1_000_000} {
		if err := pgsource.WithJobs(b.ctx, b.url, false, func(a *pgsource.JobsAdmin) error { return errOf(a.Future(b.ctx, time.Second, bad)) }); err == nil {
			t.Errorf("it takes %d steps", bad)
		}
	}
}

// TestLastRuns: the newest first, each with what has become of it.
func TestLastRuns(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, b *bench) {
		b.exec("INSERT INTO reactor.schedules (name, cron, topic, start_at) VALUES ('s', '0 0 * * *', 't', '2100-01-01'), ('other', '0 0 * * *', 't', '2100-01-01'), ('none', '0 0 * * *', 't', '2100-01-01')")
		ids := b.insert(8, "-1 second")
		b.exec("UPDATE jobs SET schedule_id = (SELECT reactor.schedules.id FROM reactor.schedules WHERE name = CASE WHEN jobs.id = $1 THEN 'other' ELSE 's' END), occurrence_at = date_trunc('second', now()) - (100 - id) * interval '1 minute'", ids[7])
		b.exec("UPDATE jobs SET occurrence_at = NULL WHERE id = $1; ", ids[6]) // run by hand
		b.exec("UPDATE jobs SET fire_at = now() + interval '1 hour' WHERE id = $1", ids[5])
		b.published(b.claim(ids[:2]))
		for range 2 {
			b.refuse(b.claim(ids[2:3]))
		}
		b.claim(ids[3:4])
		var runs map[string][]pgsource.ScheduleRun
		read := func(n int) {
			b.admin(func(a *pgsource.JobsAdmin) (err error) {
				runs, err = a.LastRuns(b.ctx, []string{"s", "other", "none", "unknown"}, n)
				return err
			})
		}
		read(20)
		text := ""
		for _, run := range runs["s"] {
			text += fmt.Sprintf("%d %s; ", run.ID, run.State)
		}
		if want := fmt.Sprintf("%d waiting; %d firing; %d failed; %d fired; %d fired; ", ids[4], ids[3], ids[2], ids[1], ids[0]); text != want || len(runs) != 2 || len(runs["other"]) != 1 {
			t.Errorf("the runs are %s want %s (%v)", text, want, runs)
		}
		if failed := runs["s"][2]; failed.Attempts != 2 || failed.Reason != "not authorized" || b.now().Sub(failed.OccurrenceAt) < time.Hour || b.now().Sub(failed.FireAt) > time.Minute {
			t.Errorf("%+v", failed)
		}
		if read(2); len(runs["s"]) != 2 || runs["s"][0].ID != ids[4] || runs["s"][1].ID != ids[3] {
			t.Errorf("the last two are %+v", runs["s"])
		}
	})
}

// TestViewerLooks: a role that may only look can read everything that there is to look at, and change nothing.
func TestViewerLooks(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	of, unlock := b.eachState()
	unlock()
	b.exec("INSERT INTO reactor.schedules (name, cron, topic) VALUES ('s', '0 0 * * *', 't')")
	_, urls := b.roles(b.url, pgsource.Names{})
	j := b.openJobs(urls["viewer"], pgsource.OpenJobsConfig{})
	for name, read := range map[string]func(a *pgsource.JobsAdmin) error{
		"Now":     func(a *pgsource.JobsAdmin) error { return errOf(a.Now(b.ctx)) },
		"Status":  func(a *pgsource.JobsAdmin) error { return errOf(a.Status(b.ctx)) },
		"Show":    func(a *pgsource.JobsAdmin) error { return errOf(a.Show(b.ctx, of[pgsource.JobFailed])) },
		"Payload": func(a *pgsource.JobsAdmin) error { return errOf(a.Payload(b.ctx, of[pgsource.JobFailed])) },
		"Search": func(a *pgsource.JobsAdmin) error {
			return errOf(a.Search(b.ctx, pgsource.JobFilter{}, pgsource.SearchPage{}))
		},
		"Search, waiting": func(a *pgsource.JobsAdmin) error {
			return errOf(a.Search(b.ctx, pgsource.JobFilter{States: []pgsource.JobState{pgsource.JobWaiting}}, pgsource.SearchPage{}))
		},
		"Search, failed": func(a *pgsource.JobsAdmin) error {
			return errOf(a.Search(b.ctx, pgsource.JobFilter{States: []pgsource.JobState{pgsource.JobFailed}}, pgsource.SearchPage{}))
		},
		"Future":     func(a *pgsource.JobsAdmin) error { return errOf(a.Future(b.ctx, time.Second, 60)) },
		"LastRuns":   func(a *pgsource.JobsAdmin) error { return errOf(a.LastRuns(b.ctx, []string{"s"}, 20)) },
		"Schedule":   func(a *pgsource.JobsAdmin) error { return errOf(a.Schedule(b.ctx, "s")) },
		"ScheduleID": func(a *pgsource.JobsAdmin) error { return errOf(a.ScheduleID(b.ctx, "s")) },
		"Schedules": func(a *pgsource.JobsAdmin) error {
			_, _, err := a.Schedules(b.ctx, pgsource.ScheduleFilter{})
			return err
		},
		"NextOccurrences": func(a *pgsource.JobsAdmin) error {
			_, _, err := a.NextOccurrences(b.ctx, "s", 3)
			return err
		},
		"FailedGroups": func(a *pgsource.JobsAdmin) error {
			_, _, err := a.FailedGroups(b.ctx, "t")
			return err
		},
		"FailedTopics": func(a *pgsource.JobsAdmin) error {
			_, _, err := a.FailedTopics(b.ctx, "t")
			return err
		},
		"Backlog": func(a *pgsource.JobsAdmin) error { return errOf(a.Backlog(b.ctx)) },
		"SelectSome": func(a *pgsource.JobsAdmin) error {
			_, _, err := a.SelectSome(b.ctx, pgsource.JobFilter{}, 10)
			return err
		},
	} {
		if err := j.Look(b.ctx, read); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What it may not do says which right is lacking.
	for name, change := range map[string]func(a *pgsource.JobsAdmin) error{
		"cancel": func(a *pgsource.JobsAdmin) error {
			return a.Act(b.ctx, pgsource.CancelJobs(), []int64{of[pgsource.JobWaiting]}, pgsource.JobFilter{}, func(pgsource.JobOutcome) error { return nil })
		},
		"purge": func(a *pgsource.JobsAdmin) error {
			return a.Act(b.ctx, pgsource.PurgeJobs(), []int64{of[pgsource.JobFailed]}, pgsource.JobFilter{}, func(pgsource.JobOutcome) error { return nil })
		},
		"pause": func(a *pgsource.JobsAdmin) error { return a.PauseSchedule(b.ctx, "s") },
		"run":   func(a *pgsource.JobsAdmin) error { return errOf(a.RunSchedule(b.ctx, "s")) },
	} {
		if err := j.Change(b.ctx, change); err == nil || !strings.Contains(err.Error(), "GRANT") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	instance := b.openJobs(urls["instance"], pgsource.OpenJobsConfig{})
	for name, change := range map[string]func(a *pgsource.JobsAdmin) error{
		"pause":  func(a *pgsource.JobsAdmin) error { return a.PauseSchedule(b.ctx, "s") },
		"resume": func(a *pgsource.JobsAdmin) error { return a.ResumeSchedule(b.ctx, "s") },
		"run":    func(a *pgsource.JobsAdmin) error { return errOf(a.RunSchedule(b.ctx, "s")) },
		"purge": func(a *pgsource.JobsAdmin) error {
			return a.Act(b.ctx, pgsource.PurgeJobs(), []int64{of[pgsource.JobFailed]}, pgsource.JobFilter{}, func(o pgsource.JobOutcome) error {
				if !o.Done {
					return fmt.Errorf("%+v", o)
				}
				return nil
			})
		},
	} {
		if err := instance.Change(b.ctx, change); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
