package reactor_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	schema "github.com/job-publisher/reactor/sql"
)

// deployment is one of several in the database of a world.
type deployment struct {
	*world // with a topic prefix, a subscriber and a connection of its own
	names  pgsource.Names
	schema string
	table  string
}

// flags are those of its instances.
func (d *deployment) flags() []string {
	flags := []string{"--feed", d.feed.String(), "--schema", d.schema, "--jobs-table", d.table, "--retain", "1m"}
	if d.feed == pgsource.FeedPoll {
		flags = append(flags, "--loop-frequency", "100ms")
	}
	return flags
}

// deploy makes another deployment in the database of a world.
func (w *world) deploy(name, table string) *deployment {
	w.t.Helper()
	other := *w
	d := &deployment{world: &other, names: pgsource.Names{Schema: name, JobsTable: table}, schema: name, table: table}
	if _, err := pgsource.MigrateUp(w.ctx, w.databaseURL, d.names); err != nil {
		w.t.Fatal(err)
	}
	d.prefix += "-" + name
	d.subscribe(2)
	d.db = w.connect()
	return d
}

// asJobs lets the connection of the deployment find its table as jobs, as the checker does.
func (d *deployment) asJobs() {
	d.t.Helper()
	d.exec(fmt.Sprintf("CREATE SCHEMA judge_%s; CREATE VIEW judge_%[1]s.jobs AS SELECT * FROM %s; SET search_path = judge_%[1]s", d.schema, d.table))
}

// undo undoes everything of the deployment.
func (d *deployment) undo() {
	d.t.Helper()
	d.exec(fmt.Sprintf("DROP SCHEMA IF EXISTS judge_%s CASCADE; DELETE FROM %[1]s.instances", d.schema))
	for range schema.Migrations {
		plan, err := pgsource.PlanDown(d.ctx, d.databaseURL, d.names)
		if err == nil {
			_, err = pgsource.MigrateDown(d.ctx, d.databaseURL, plan, d.names)
		}
		if err != nil {
			d.t.Fatal(err)
		}
	}
}

// TestTwoDeploymentsInOneDatabase: each has two instances, of which one is killed, its own jobs and its own
// schedule. Ids, keys and names are the same in both. Each job is published once, with the content that
// its own deployment gave it. Meanwhile a third deployment comes and goes. When one is undone, the
// other goes on.
func TestTwoDeploymentsInOneDatabase(t *testing.T) {
	t.Parallel()
	for _, feed := range []pgsource.Feed{pgsource.FeedNotify, pgsource.FeedWAL, pgsource.FeedPoll} {
		t.Run(feed.String(), func(t *testing.T) {
			t.Parallel()
			const jobs = 600
			w := newWorld(t, "", "")
			w.exec("CREATE SCHEMA app")
			first := &deployment{world: w, schema: "reactor", table: "public.jobs", names: pgsource.Names{JobsTable: "public.jobs"}}
			// In the same schema as a table whose indexes begin like its own, and with partitions.
			second, third := w.deploy("reactor_app", "app.jobs"), w.deploy("third", "app.jobs_of_third")
			if err := pgsource.ConvertToPartitions(w.ctx, w.databaseURL, 24*time.Hour, second.names); err != nil {
				t.Fatal(err)
			}
			second.asJobs()
			both := []*deployment{first, second}
			names := map[string]bool{}
			for _, d := range both {
				d.feed = feed
				if feed != pgsource.FeedNotify {
					d.exec(fmt.Sprintf("DROP TRIGGER %s_jobs_inserted ON %s; DROP TRIGGER %[1]s_jobs_updated ON %[2]s", d.schema, d.table))
				}
				var name string
				if err := d.db.QueryRow(w.ctx, "SELECT name FROM "+d.schema+".deployment").Scan(&name); err != nil {
					t.Fatal(err)
				}
				names[name] = true
			}
			if len(names) != 2 {
				t.Error("both deployments have the same name at the broker")
			}

			instances := map[*deployment][]*testkit.Process{}
			for _, d := range both {
				for range 2 {
					instances[d] = append(instances[d], d.process(nil, d.flags()...))
				}
			}
			for _, d := range both {
				d.eventually("two instances share the shards of "+d.schema, "SELECT count(DISTINCT owner) = 2 AND count(owner) = 64 FROM "+d.schema+".shards")
				d.exec(`INSERT INTO `+d.schema+`.schedules (name, cron, topic, catch_up) VALUES ('tick', '* * * * * *', $1 || '/tick', 'all')`, d.prefix)
				d.exec(`INSERT INTO `+d.table+` (topic, payload, fire_at, ordering_key, key)
					SELECT $1 || '/t' || n % 10, $1 || n, clock_timestamp() + n * interval '5 ms', CASE WHEN n % 20 = 0 THEN 'one' END, 'k' || n FROM generate_series(1, $2::integer) n`, d.prefix, jobs)
			}
			var others sync.WaitGroup
			others.Go(third.undo)
			for _, d := range both {
				others.Go(func() {
					if _, err := pgsource.RestoreTable(w.ctx, w.databaseURL, d.names); err != nil {
						t.Errorf("%s: %v", d.schema, err)
					}
				})
				if err := d.subscriber.WaitDistinct(w.ctx, jobs/3); err != nil {
					t.Fatal(err)
				}
				instances[d][0].Kill(t)
				instances[d][0] = d.process(nil, d.flags()...)
			}
			others.Wait()
			for _, d := range both {
				if err := d.subscriber.WaitDistinct(w.ctx, jobs+2); err != nil {
					t.Fatal(err)
				}
				d.exec("DELETE FROM " + d.schema + ".schedules")
				d.eventually("all is published", "SELECT NOT EXISTS (SELECT FROM jobs WHERE NOT processed) AND NOT EXISTS (SELECT FROM "+d.schema+".in_flight)")
				d.judgeOwn()
			}
			for _, p := range instances[second] {
				p.Terminate(t)
				if code := p.Wait(t, 30*time.Second); code != 0 {
					t.Errorf("an instance ends with %d", code)
				}
			}
			second.undo()
			first.insert(200, 0, time.Second)
			first.eventually("all is published", "SELECT NOT EXISTS (SELECT FROM jobs WHERE NOT processed) AND NOT EXISTS (SELECT FROM reactor.in_flight)")
			first.judgeOwn()
		})
	}
}

// judgeOwn compares what has arrived under the prefix of the deployment with its table.
func (d *deployment) judgeOwn() {
	d.t.Helper()
	expected, err := check.ExpectedFromDB(d.ctx, d.db, "true")
	if err != nil {
		d.t.Fatal(err)
	}
	if err := d.subscriber.WaitDistinct(d.ctx, len(expected)); err != nil {
		d.t.Error(err)
	}
	if err := check.Compare(expected, d.subscriber.Received(), check.Config{}).Err(); err != nil {
		d.t.Errorf("%s: %v", d.schema, err)
	}
}

// TestDeploymentsDoNotWakeEachOther: an insert announces its jobs to its own deployment only.
func TestDeploymentsDoNotWakeEachOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	w.exec("CREATE SCHEMA app")
	second := w.deploy("reactor_app", "app.jobs")
	listener := w.connect()
	if _, err := listener.Exec(w.ctx, "LISTEN reactor_jobs; LISTEN reactor_membership; LISTEN reactor_probe"); err != nil {
		t.Fatal(err)
	}
	second.process(nil, "--schema", second.schema, "--jobs-table", second.table)
	second.exec("INSERT INTO app.jobs (topic, fire_at) SELECT $1 || '/x', now() FROM generate_series(1, 10)", second.prefix)
	if err := second.subscriber.WaitDistinct(w.ctx, 10); err != nil {
		t.Fatal(err)
	}
	w.exec("NOTIFY reactor_jobs, 'the test'")
	n, err := listener.WaitForNotification(w.ctx)
	if err != nil || n.Payload != "the test" {
		t.Errorf("the other deployment hears %+v, %v", n, err)
	}
}

// TestOneOfTwoGetsTheTable: two new deployments want the same table at the same time.
func TestOneOfTwoGetsTheTable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "", "")
	w.exec("CREATE SCHEMA app")
	for round := range 5 {
		table := fmt.Sprint("app.wanted_", round)
		results := make(chan error)
		for _, name := range []string{"left", "right"} {
			go func() {
				_, err := pgsource.MigrateUp(w.ctx, w.databaseURL, pgsource.Names{Schema: fmt.Sprint(name, "_", round), JobsTable: table})
				results <- err
			}()
		}
		if one, two := <-results, <-results; (one == nil) == (two == nil) {
			t.Errorf("round %d: one gets %v, and the other %v", round, one, two)
		} else if why := errors.Join(one, two).Error(); !strings.Contains(why, "the table "+table+" is that of the deployment in schema") {
			t.Errorf("round %d: the refusal is %s", round, why)
		}
		var deployments int
		if err := w.db.QueryRow(w.ctx, "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relname = 'deployment' AND nspname ~ $1", fmt.Sprint("^(left|right)_", round, "$")).Scan(&deployments); err != nil || deployments != 1 {
			t.Errorf("round %d: %d deployments, %v", round, deployments, err)
		}
	}
}
