package pgsource_test

import (
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
)

// TestMissingRights: each command says in one line which GRANT it lacks, and no more than it lacks; with exactly these
// it works.
func TestMissingRights(t *testing.T) {
	at := time.Now().Add(-time.Hour).Truncate(time.Second)
	look := func(a *pgsource.JobsAdmin, b *bench) error {
		_, _, err := a.List(b.ctx, pgsource.JobFilter{}, pgsource.JobPage{})
		return err
	}
	act := func(action pgsource.JobAction) func(a *pgsource.JobsAdmin, b *bench) error {
		return func(a *pgsource.JobsAdmin, b *bench) error {
			return a.Act(b.ctx, action, []int64{1}, pgsource.JobFilter{}, func(o pgsource.JobOutcome) error { return nil })
		}
	}
	jobs := func(change bool, do func(*pgsource.JobsAdmin, *bench) error) func(*bench, string) error {
		return func(b *bench, url string) error {
			return pgsource.WithJobs(b.ctx, url, change, func(a *pgsource.JobsAdmin) error { return do(a, b) })
		}
	}
	for name, do := range map[string]func(*bench, string) error{
		"list":   jobs(false, look),
		"cancel": jobs(true, act(pgsource.CancelJobs())),
		"fire":   jobs(true, act(pgsource.FireJobs())),
		"retry":  jobs(true, act(pgsource.RetryJobs(nil))),
		"fire those of a schedule": jobs(true, func(a *pgsource.JobsAdmin, b *bench) error {
			a.Intend(pgsource.FireJobs())
			id, err := a.ScheduleID(b.ctx, "s")
			if err != nil {
				return err
			}
			filter := pgsource.JobFilter{Schedule: id}
			if _, err := a.Select(b.ctx, filter); err != nil {
				return err
			}
			return a.Act(b.ctx, pgsource.FireJobs(), []int64{1}, filter, func(o pgsource.JobOutcome) error { return nil })
		}),
		"cancel key": jobs(true, func(a *pgsource.JobsAdmin, b *bench) error {
			_, err := a.ActByKey(b.ctx, pgsource.CancelJobs(), "k")
			return err
		}),
		"show": jobs(false, func(a *pgsource.JobsAdmin, b *bench) error {
			_, err := a.Show(b.ctx, 2)
			return err
		}),
		"count": func(b *bench, url string) error {
			_, err := pgsource.Retention{DatabaseURL: url, Keep: time.Hour}.Count(b.ctx)
			return err
		},
		"purge": func(b *bench, url string) error {
			_, err := pgsource.Retention{DatabaseURL: url, Keep: time.Hour}.Purge(b.ctx)
			return err
		},
		"watch": jobs(false, func(a *pgsource.JobsAdmin, b *bench) error {
			_, err := a.Status(b.ctx)
			return err
		}),
		"status":    func(b *bench, url string) error { _, err := pgsource.MigrateStatus(b.ctx, url); return err },
		"schedules": func(b *bench, url string) error { _, err := pgsource.ListSchedules(b.ctx, url); return err },
		"add": func(b *bench, url string) error {
			return pgsource.AddSchedule(b.ctx, url, pgsource.Schedule{Name: "new", Every: time.Hour, Message: pgsource.ScheduleMessage{Topic: "t"}})
		},
		"pause":  func(b *bench, url string) error { return pgsource.PauseSchedule(b.ctx, url, "s") },
		"resume": func(b *bench, url string) error { return pgsource.ResumeSchedule(b.ctx, url, "paused") },
		"delete": func(b *bench, url string) error { return pgsource.DeleteSchedule(b.ctx, url, "s") },
		"run":    func(b *bench, url string) error { _, err := pgsource.RunSchedule(b.ctx, url, "s"); return err },
		"next": func(b *bench, url string) error {
			_, _, err := pgsource.NextOccurrences(b.ctx, url, "s", 1)
			return err
		},
		"backfill": func(b *bench, url string) error {
			_, err := pgsource.Backfill(b.ctx, url, "paused", at, at.Add(time.Minute))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := examine(t, testkit.NewDatabase(t))
			role, url := b.role("")
			b.exec(`INSERT INTO jobs (topic, fire_at, key) VALUES ('t', now(), 'k'), ('t', now(), NULL);
				INSERT INTO reactor.schedules (name, every, topic, paused) VALUES ('s', '1 second', 't', false), ('paused', '1 second', 't', true)`)
			for granted := 0; ; granted++ {
				err := do(b, url)
				if err == nil {
					if granted == 0 {
						t.Error("it works without a right")
					}
					return
				}
				_, grants, ok := strings.Cut(err.Error(), "as the owner of the tables run ")
				if !ok || granted > 0 || strings.Contains(err.Error(), "\n") || !strings.Contains(grants, " TO "+role) || strings.Contains(grants, "ALL ") {
					t.Fatalf("after %d times: %v", granted, err)
				}
				b.exec(grants)
			}
		})
	}
}

// TestMissingRightsArePrecise: what the role has is not asked for again, partitions are named, and what nobody can grant
// is left to the server's own words.
func TestMissingRightsArePrecise(t *testing.T) {
	b := converted(t, "")
	role, url := b.role("")
	b.exec("GRANT USAGE ON SCHEMA reactor TO " + role + "; GRANT SELECT ON ALL TABLES IN SCHEMA reactor TO " + role + "; GRANT SELECT ON jobs TO " + role + "; REVOKE SELECT ON reactor.retries FROM " + role)
	err := pgsource.WithJobs(b.ctx, url, false, func(a *pgsource.JobsAdmin) error {
		_, _, err := a.List(b.ctx, pgsource.JobFilter{}, pgsource.JobPage{})
		return err
	})
	if err == nil || !strings.HasSuffix(err.Error(), "run GRANT SELECT ON reactor.retries TO "+role) {
		t.Errorf("to list: %v", err)
	}
	if _, _, err = pgsource.ListPartitions(b.ctx, url); err == nil || !strings.Contains(err.Error(), "GRANT SELECT ON public.jobs_default, public.jobs_p") {
		t.Errorf("of partitions: %v", err)
	}
	b.exec("GRANT SELECT ON ALL TABLES IN SCHEMA public TO " + role)
	if list, _, err := pgsource.ListPartitions(b.ctx, url); err != nil || len(list) == 0 {
		t.Errorf("%d partitions, %v", len(list), err)
	}
	if _, err := (pgsource.Retention{DatabaseURL: url, Keep: time.Hour}).Count(b.ctx); err == nil || !strings.Contains(err.Error(), "GRANT DELETE ON reactor.failed_jobs TO "+role) || !strings.Contains(err.Error(), "GRANT UPDATE, DELETE ON public.jobs, public.jobs_default, ") {
		t.Errorf("to purge: %v", err)
	}
	b.exec("GRANT UPDATE, DELETE ON jobs, reactor.retries, reactor.failed_jobs TO " + role + "; GRANT SELECT ON reactor.retries TO " + role)
	if _, err := (pgsource.Retention{DatabaseURL: url, Keep: time.Hour}).Count(b.ctx); err == nil || !strings.Contains(err.Error(), "run GRANT UPDATE, DELETE ON public.jobs_default, public.jobs_p") {
		t.Errorf("to purge partitions, before anything is asked: %v", err)
	}
	b.exec(`GRANT UPDATE, DELETE ON jobs TO ` + role + `; GRANT SELECT ON reactor.retries TO ` + role + `; INSERT INTO jobs (topic, fire_at) VALUES ('t', now());
		CREATE FUNCTION deny() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE insufficient_privilege USING MESSAGE = 'nobody may'; END $$; CREATE TRIGGER deny BEFORE DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION deny()`)
	err = pgsource.WithJobs(b.ctx, url, true, func(a *pgsource.JobsAdmin) error {
		return a.Act(b.ctx, pgsource.CancelJobs(), []int64{1}, pgsource.JobFilter{}, func(o pgsource.JobOutcome) error {
			if o.Answer != "refused: nobody may (SQLSTATE 42501)" {
				t.Errorf("a trigger says no: %+v", o)
			}
			return nil
		})
	})
	if err != nil {
		t.Errorf("a trigger says no: %v", err)
	}
}

// TestRightsAreNoMoreThanNeeded: without any single one of the rights that a command of `reactor jobs` asks for, it
// asks for that one. So it needs them all.
func TestRightsAreNoMoreThanNeeded(t *testing.T) {
	// What becomes of a job that was claimed is written in other tables than that of a job that waits.
	act := func(action pgsource.JobAction, ids ...int64) func(*bench, string) error {
		return func(b *bench, url string) error {
			return pgsource.WithJobs(b.ctx, url, true, func(a *pgsource.JobsAdmin) error {
				return a.Act(b.ctx, action, ids, pgsource.JobFilter{}, func(o pgsource.JobOutcome) error { return nil })
			})
		}
	}
	commands := map[string]func(*bench, string) error{
		"list": func(b *bench, url string) error {
			return pgsource.WithJobs(b.ctx, url, false, func(a *pgsource.JobsAdmin) error {
				_, _, err := a.List(b.ctx, pgsource.JobFilter{}, pgsource.JobPage{})
				return err
			})
		},
		"show": func(b *bench, url string) error {
			return pgsource.WithJobs(b.ctx, url, false, func(a *pgsource.JobsAdmin) error {
				_, err := a.Show(b.ctx, 1)
				return err
			})
		},
		"watch": func(b *bench, url string) error {
			return pgsource.WithJobs(b.ctx, url, false, func(a *pgsource.JobsAdmin) error {
				_, err := a.Status(b.ctx)
				return err
			})
		},
		"fire":       act(pgsource.FireJobs(), 1, 3),
		"reschedule": act(pgsource.RescheduleJobs(0), 1, 3),
		"cancel":     act(pgsource.CancelJobs(), 2, 3),
		"retry":      act(pgsource.RetryJobs(nil), 3),
		"purge": func(b *bench, url string) error {
			_, err := pgsource.Retention{DatabaseURL: url, Keep: time.Hour}.Purge(b.ctx)
			return err
		},
	}
	for name, do := range commands {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := examine(t, testkit.NewDatabase(t))
			role, url := b.role("")
			// What a command does is the same each time: jobs that it changes are made again.
			made := `DELETE FROM jobs; INSERT INTO jobs (id, topic, fire_at, schedule_id, processed, claim) OVERRIDING SYSTEM VALUE VALUES
				(1, 't', now() + interval '1 hour', 1, false, NULL), (2, 't', now(), NULL, false, NULL), (3, 't', now() - interval '2 hours', NULL, true, '00000000-0000-4000-8000-000000000003')`
			b.exec(made + `; INSERT INTO reactor.failed_jobs (job_id, attempts, code, reason, claim) VALUES (3, 1, 135, 'no', '00000000-0000-4000-8000-000000000003')`)
			asked := func() string {
				t.Helper()
				err := do(b, url)
				if err == nil {
					return ""
				}
				_, grants, ok := strings.Cut(err.Error(), "as the owner of the tables run ")
				if !ok {
					t.Fatal(err)
				}
				return grants
			}
			var singles []string
			all := asked()
			for grant := range strings.SplitSeq(all, "; ") {
				what, on, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(grant, "GRANT "), " TO "+role), " ON ")
				for privilege := range strings.SplitSeq(what, ", ") {
					for table := range strings.SplitSeq(on, ", ") {
						singles = append(singles, privilege+" ON "+table)
					}
				}
			}
			if len(singles) < 7 {
				t.Fatalf("it asks for %q", all)
			}
			b.exec(all)
			for _, single := range singles {
				b.exec(made + "; REVOKE " + single + " FROM " + role)
				if got := asked(); got != "GRANT "+single+" TO "+role {
					t.Errorf("without %s it asks for %q", single, got)
				}
				b.exec("GRANT " + single + " TO " + role)
			}
			b.exec(made)
			if got := asked(); got != "" {
				t.Errorf("with all of them it asks for %q", got)
			}
		})
	}
}
