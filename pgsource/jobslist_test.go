package pgsource_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// admin runs with a JobsAdmin.
func (b *bench) admin(do func(*pgsource.JobsAdmin) error) {
	b.t.Helper()
	if err := pgsource.WithJobs(b.ctx, b.url, true, do); err != nil {
		b.t.Fatal(err)
	}
}

// list returns a page of jobs, and what follows.
func (b *bench) list(filter pgsource.JobFilter, page pgsource.JobPage) (list []pgsource.Job, next *pgsource.JobCursor) {
	b.t.Helper()
	b.admin(func(a *pgsource.JobsAdmin) (err error) {
		list, next, err = a.List(b.ctx, filter, page)
		return err
	})
	return list, next
}

// detail is what Show tells of one job.
func (b *bench) detail(id int64) (d pgsource.JobDetail) {
	b.t.Helper()
	b.admin(func(a *pgsource.JobsAdmin) error {
		list, err := a.Show(b.ctx, id)
		if err == nil && len(list) != 1 {
			err = fmt.Errorf("%d jobs have the id %d", len(list), id)
		}
		if err == nil {
			d = list[0]
		}
		return err
	})
	return d
}

func idsOfList(list []pgsource.Job) (ids []int64) {
	for _, j := range list {
		ids = append(ids, j.ID)
	}
	return ids
}

// eachState makes a job of each state, and returns their ids. The row of the returning one is locked
// until unlock is called.
func (b *bench) eachState() (of map[pgsource.JobState]int64, unlock func()) {
	b.t.Helper()
	ids := b.insert(9, "-1 second")
	of = map[pgsource.JobState]int64{}
	for i, state := range pgsource.JobStates {
		of[state] = ids[i]
	}
	b.exec("UPDATE jobs SET expires_at = now() + interval '1 day' WHERE id = ANY ($1)", ids)
	b.published(b.claim([]int64{of[pgsource.JobFired]}))
	// Two attempts are allowed: the first refusal is tried again, and the second is the last.
	b.refuse(b.claim([]int64{of[pgsource.JobRetrying]}))
	for _, state := range []pgsource.JobState{pgsource.JobFailed, pgsource.JobExpired, pgsource.JobMissed} {
		for range 2 {
			b.refuse(b.claim([]int64{of[state]}))
		}
		b.exec("UPDATE reactor.failed_jobs SET state = $2 WHERE job_id = $1", of[state], string(state))
	}
	if err := b.Quarantine(b.ctx, []driver.BadJob{{ID: of[pgsource.JobBlocked], Why: &driver.JobError{Reason: "a trigger says no"}}}); err != nil {
		b.t.Fatal(err)
	}
	// While the application holds the row's lock, the job cannot return.
	holder := connect(b.t, b.ctx, b.url)
	batch := b.claim([]int64{of[pgsource.JobReturning]})
	if _, err := holder.Exec(b.ctx, "BEGIN; SELECT FROM jobs WHERE id = "+fmt.Sprint(of[pgsource.JobReturning])+" FOR UPDATE"); err != nil {
		b.t.Fatal(err)
	}
	b.unsent(batch)
	b.claim([]int64{of[pgsource.JobFiring]})
	return of, func() {
		if _, err := holder.Exec(b.ctx, "ROLLBACK"); err != nil {
			b.t.Fatal(err)
		}
	}
}

// TestJobStates: a job of each state is listed in its state and in no other, and shown with it, also
// where the table has partitions.
func TestJobStates(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(*testing.T) *bench{
		"plain": func(t *testing.T) *bench { return newBench(t) },
		"partitions": func(t *testing.T) *bench {
			b := converted(t, "")
			b.start(b.url)
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := make(t)
			of, _ := b.eachState()
			for state, id := range of {
				list, next := b.list(pgsource.JobFilter{States: []pgsource.JobState{state}}, pgsource.JobPage{})
				if got := idsOfList(list); !slices.Equal(got, []int64{id}) || next != nil || list[0].State != state {
					t.Errorf("%s: listed %+v, want job %d", state, list, id)
				}
				if d := b.detail(id); d.State != state {
					t.Errorf("job %d is shown as %s, want %s", id, d.State, state)
				}
				// That a job expires concerns one that has not ended, or that has ended by it.
				expires := slices.ContainsFunc(b.detail(id).History, func(e pgsource.JobEvent) bool { return strings.HasPrefix(e.What, "expires") })
				if want := !state.Final() || state == pgsource.JobExpired; expires != want {
					t.Errorf("the history of the job in state %s says when it expires: %v, want %v", state, expires, want)
				}
			}
			list, _ := b.list(pgsource.JobFilter{}, pgsource.JobPage{})
			if len(list) != len(pgsource.JobStates) {
				t.Errorf("%d jobs of all states, want %d", len(list), len(pgsource.JobStates))
			}
			for _, j := range list {
				if of[j.State] != j.ID {
					t.Errorf("job %d is listed as %s", j.ID, j.State)
				}
			}
		})
	}
}

// TestListPages: pages in both directions have every job once, in order, also of one instant; and
// filters select what they say.
func TestListPages(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.exec(`INSERT INTO jobs (topic, fire_at, key, schedule_id) SELECT 'a/' || n, '2040-01-01'::timestamptz + n / 50 * interval '1 hour', 'k' || n, n % 3 FROM generate_series(0, 299) n;
		INSERT INTO jobs (topic, fire_at) VALUES ('b%/x', '2000-01-01'), ('b_/x', '290000-01-01')`)
	at := func(year int) *driver.DBTime {
		at := driver.DBTimeOf(time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC))
		return &at
	}
	for _, c := range []struct {
		filter pgsource.JobFilter
		want   int
	}{
		{pgsource.JobFilter{}, 302},
		{pgsource.JobFilter{States: []pgsource.JobState{pgsource.JobWaiting}}, 302},
		{pgsource.JobFilter{States: []pgsource.JobState{pgsource.JobWaiting}, TopicPrefix: "a/1"}, 111},
		{pgsource.JobFilter{TopicPrefix: "b_"}, 1},
		{pgsource.JobFilter{Key: "k17"}, 1},
		{pgsource.JobFilter{Schedule: 2}, 100},
		{pgsource.JobFilter{From: at(2040)}, 301},
		{pgsource.JobFilter{Until: at(2040)}, 1},
		{pgsource.JobFilter{From: at(2040), Until: at(2041), States: []pgsource.JobState{pgsource.JobWaiting, pgsource.JobFired}}, 300},
		{pgsource.JobFilter{States: []pgsource.JobState{pgsource.JobFailed, pgsource.JobFiring}}, 0},
	} {
		var orders [2][]int64
		for i, latest := range []bool{false, true} {
			page := pgsource.JobPage{Limit: 37, Latest: latest}
			for {
				list, next := b.list(c.filter, page)
				orders[i] = append(orders[i], idsOfList(list)...)
				if next == nil {
					break
				}
				// As a text, as an operator passes it on.
				cursor, err := pgsource.ParseJobCursor(next.String())
				if err != nil {
					t.Fatal(err)
				}
				page.After = &cursor
			}
		}
		slices.Reverse(orders[1])
		if !slices.Equal(orders[0], orders[1]) {
			t.Errorf("%+v: the two directions differ", c.filter)
		}
		if distinct := slices.Compact(slices.Sorted(slices.Values(orders[0]))); len(distinct) != c.want || len(orders[0]) != c.want {
			t.Errorf("%+v: %d jobs, %d of them distinct, want %d", c.filter, len(orders[0]), len(distinct), c.want)
		}
	}
	list, _ := b.list(pgsource.JobFilter{}, pgsource.JobPage{Latest: true, Limit: 1})
	if len(list) != 1 || list[0].Topic != "b_/x" || list[0].FireAt.Time().Year() != 290000 {
		t.Errorf("the last job is %+v", list)
	}
}

// TestListReadsNoTable: what waits and what has failed is listed without reading the table.
func TestListReadsNoTable(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.exec(`INSERT INTO jobs (topic, fire_at, processed, claim) SELECT 't', now() - interval '1 hour', n % 2 = 0, gen_random_uuid() FROM generate_series(1, 20000) n;
		INSERT INTO reactor.failed_jobs (job_id, attempts, code, reason, claim) SELECT id, 1, 135, 'no', claim FROM jobs WHERE processed ORDER BY id LIMIT 20;
		ANALYZE reactor.failed_jobs`)
	b.exec("VACUUM ANALYZE jobs")
	const scans = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'jobs'"
	before := b.count(scans)
	for _, states := range [][]pgsource.JobState{{pgsource.JobWaiting}, {pgsource.JobFailed, pgsource.JobExpired, pgsource.JobMissed}, {pgsource.JobFiring}} {
		list, _ := b.list(pgsource.JobFilter{States: states}, pgsource.JobPage{Limit: 10})
		if want := 10; len(list) != want && states[0] != pgsource.JobFiring {
			t.Errorf("%v: %d jobs, want %d", states, len(list), want)
		}
	}
	// The server publishes a session's counts at its end at the latest.
	b.eventually("the sessions have ended", "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' AND application_name = current_setting('application_name')")
	if after := b.count(scans); after != before {
		t.Errorf("the table was read %d times as a whole", after-before)
	}
	list, _ := b.list(pgsource.JobFilter{}, pgsource.JobPage{Limit: 10}) // that the counter counts
	b.eventually("the table is read for all states", "SELECT seq_scan > $1 FROM pg_stat_user_tables WHERE relname = 'jobs'", before)
	if len(list) != 10 {
		t.Errorf("%d jobs, want 10", len(list))
	}
}

// TestShow: everything about a job, with its history, its payload and where it is.
func TestShow(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	id := int64(b.count(`INSERT INTO jobs (topic, payload_bytes, fire_at, expires_at, qos, retain, content_type, response_topic, correlation_data, headers, key)
		VALUES ('t', decode(repeat('00ff', 1000), 'hex'), now(), '2100-01-01', 1, true, 'a/b', 'r', '\x01', '{"h": "v"}', 'mine') RETURNING id`))
	b.claim([]int64{id})
	d := b.detail(id)
	if d.State != pgsource.JobFiring || d.Flight == nil || d.Flight.Lane != int(b.lease.Lane) || d.Flight.Instance == "" || d.Claim == "" {
		t.Errorf("in flight: %+v, %+v", d, d.Flight)
	}
	if d.PayloadSize != 2000 || len(d.Payload) != 1024 || !d.Binary || d.Payload[1] != 0xff || *d.QoS != 1 || !d.Retain || d.ContentType != "a/b" ||
		d.ResponseTopic != "r" || !slices.Equal(d.Correlation, []byte{1}) || d.Headers["h"] != "v" || d.Key != "mine" || d.ExpiresAt == nil {
		t.Errorf("shown %+v", d)
	}
	failed := b.insert(1, "-1 second")[0]
	for range 2 {
		b.refuse(b.claim([]int64{failed}))
	}
	var told []string
	for _, event := range b.detail(failed).History {
		told = append(told, event.What)
	}
	if got := strings.Join(told, "; "); got != "due; claimed; failed after 2 attempts: not authorized" {
		t.Errorf("history %q", got)
	}
	b.admin(func(a *pgsource.JobsAdmin) error {
		if list, err := a.ShowKey(b.ctx, "mine"); err != nil || list[0].ID != id {
			t.Errorf("by key: %v, %v", list, err)
		}
		if payload, err := a.Payload(b.ctx, id); err != nil || len(payload) != 2000 {
			t.Errorf("payload of %d bytes, %v", len(payload), err)
		}
		for _, err := range []error{errOf(a.Show(b.ctx, 999)), errOf(a.ShowKey(b.ctx, "nobody's")), errOf(a.Payload(b.ctx, 999))} {
			if err != pgsource.ErrNoJob {
				t.Errorf("no such job: %v", err)
			}
		}
		return nil
	})
}

func errOf[T any](_ T, err error) error { return err }

// TestNothingInherited: a new row with an id that was used before has nothing of the old one: neither
// its failure, nor what kept it from being claimed, nor its attempts.
func TestNothingInherited(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	of, unlock := b.eachState()
	unlock()
	b.exec("TRUNCATE jobs RESTART IDENTITY")
	b.insert(9, "1 hour")
	for state, id := range of {
		if d := b.detail(id); d.State != pgsource.JobWaiting || d.Reason != "" || d.Attempts != 0 {
			t.Errorf("after %s the new job %d is %s, %q", state, id, d.State, d.Reason)
		}
	}
	// As processed rows, as in a restored table: without a claim, and with another one.
	b.exec("UPDATE jobs SET processed = true, claim = CASE WHEN id % 2 = 0 THEN gen_random_uuid() END")
	for state, id := range of {
		if d := b.detail(id); d.State != pgsource.JobFired || d.Reason != "" || d.Attempts != 0 {
			t.Errorf("after %s the new job %d is %s, %q", state, id, d.State, d.Reason)
		}
	}
}
