package pgsource_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor/driver"
)

// converted is a bench whose table has daily partitions, without a source.
func converted(t *testing.T, rows string) *bench {
	t.Helper()
	b := examine(t, testkit.NewDatabase(t))
	if rows != "" {
		b.exec(rows)
	}
	if err := pgsource.ConvertToPartitions(b.ctx, b.url, 24*time.Hour); err != nil {
		t.Fatal(err)
	}
	return b
}

// maintain returns what was changed.
func (b *bench) maintain(ahead int, retain time.Duration) (changes []string) {
	b.t.Helper()
	if err := (pgsource.Partitions{DatabaseURL: b.url, Ahead: ahead, Retain: retain, Tell: func(s string) { changes = append(changes, s) }}).Maintain(b.ctx); err != nil {
		b.t.Fatal(err)
	}
	return changes
}

func (b *bench) partitions() []pgsource.Partition {
	b.t.Helper()
	list, _, err := pgsource.ListPartitions(b.ctx, b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	return list
}

// TestConvert: all jobs, the sequence, rights, indexes and settings are kept, and instances work on
// the table as before.
func TestConvert(t *testing.T) {
	b := examine(t, testkit.NewDatabase(t))
	role, _ := b.role("")
	b.exec("GRANT INSERT ON jobs TO " + role + "; CREATE INDEX mine ON jobs (topic); ALTER TABLE jobs ADD COLUMN note text DEFAULT 'n'")
	b.exec(`INSERT INTO jobs (topic, fire_at, processed, claim, note) SELECT 't/' || n, now() + n * interval '1 hour', n < 0, CASE WHEN n < 0 THEN gen_random_uuid() END, 'note ' || n FROM generate_series(-100, 100) n;
		INSERT INTO jobs (topic, fire_at) VALUES ('long/ago', '2000-01-01'), ('far/ahead', '2300-01-01')`)
	sum := "SELECT hashtext(string_agg(j::text, ',' ORDER BY id)) FROM (SELECT id, topic, payload, fire_at, processed, shard, claim, note FROM jobs) AS j"
	before := b.count(sum)
	if err := pgsource.ConvertToPartitions(b.ctx, b.url, 24*time.Hour); err != nil {
		t.Fatal(err)
	}
	if after := b.count(sum); after != before {
		t.Error("the rows are not the same")
	}
	if n := b.count("INSERT INTO jobs (topic, fire_at) VALUES ('next', now() + interval '1 hour') RETURNING id"); n != 204 {
		t.Errorf("the next id is %d, want 204", n)
	}
	if n := b.count("SELECT count(*) FROM jobs_default"); n != 2 {
		t.Errorf("the default partition has %d jobs, want the two that lie outside", n)
	}
	if n := b.count("SELECT count(*) FROM pg_class WHERE oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'jobs'::regclass) AND NOT 'fillfactor=80' = ANY (reloptions)"); n != 0 {
		t.Errorf("%d partitions lack the settings of the table", n)
	}
	if n := b.count("SELECT count(*) FROM pg_indexes WHERE tablename = 'jobs' AND indexname IN ('mine', 'jobs_pending', 'jobs_pkey')"); n != 3 {
		t.Errorf("%d of 3 indexes are there", n)
	}
	if n := b.count("SELECT has_table_privilege('" + role + "', 'jobs', 'INSERT')::int"); n != 1 {
		t.Error("the rights are gone")
	}
	b.exec("TRUNCATE jobs")
	b.start(b.url)
	b.exec("INSERT INTO jobs (id, topic, fire_at) SELECT n, 't', now() - interval '1 second' + n * interval '1 microsecond' FROM generate_series(1, 20) n")
	b.exact([]int64{1, 3, 5, 20})
}

// TestConvertRefuses: what would be lost is refused, and the table is as before.
func TestConvertRefuses(t *testing.T) {
	for what, c := range map[string]struct{ prepare, want string }{
		"a foreign key":  {"CREATE TABLE log (job bigint REFERENCES jobs (id))", "foreign keys"},
		"a view":         {"CREATE VIEW mine AS SELECT * FROM jobs", "views use the table"},
		"a unique index": {"CREATE UNIQUE INDEX one ON jobs (topic)", "unique indexes"},
		"policies":       {"ALTER TABLE jobs ENABLE ROW LEVEL SECURITY", "row-level security"},
		"an instance":    {"INSERT INTO reactor.instances (id, name, backends, dynamic) VALUES (1, 'running', '', true)", "instances are running (running)"},
	} {
		t.Run(what, func(t *testing.T) {
			b := examine(t, testkit.NewDatabase(t))
			b.exec(c.prepare)
			err := pgsource.ConvertToPartitions(b.ctx, b.url, 24*time.Hour)
			if err == nil || !strings.Contains(err.Error(), c.want) && !strings.Contains(fmt.Sprint(errors.Unwrap(err)), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if n := b.count("SELECT count(*) FROM pg_class WHERE oid = 'jobs'::regclass AND relkind = 'r'"); n != 1 {
				t.Error("the table has changed")
			}
		})
	}
}

// TestPartitionsAhead: partitions are made ahead, jobs move to them out of the default partition, and
// nothing is changed twice.
func TestPartitionsAhead(t *testing.T) {
	b := converted(t, "")
	if got := b.maintain(7, 0); got != nil {
		t.Errorf("right after the conversion: %v", got)
	}
	b.exec(`INSERT INTO jobs (topic, fire_at) SELECT 'far', now() + interval '10 days' FROM generate_series(1, 50); INSERT INTO jobs (topic, fire_at) VALUES ('farther', now() + interval '100 days')`)
	changes := b.maintain(10, 0)
	if len(changes) != 3 || !strings.Contains(strings.Join(changes, "\n"), "50 jobs of the default partition") {
		t.Errorf("changes %q", changes)
	}
	if n := b.count("SELECT count(*) FROM jobs_default"); n != 1 {
		t.Errorf("%d jobs are left in the default partition, want 1", n)
	}
	if n := b.count("SELECT count(*) FROM jobs"); n != 51 {
		t.Errorf("%d jobs are left, want 51", n)
	}
	if got := b.maintain(10, 0); got != nil {
		t.Errorf("the second time: %v", got)
	}
	// Each like those of the conversion.
	if n := b.count(`SELECT count(DISTINCT (relowner, reloptions::text, relreplident, (SELECT count(*) FROM pg_index WHERE indrelid = c.oid), (SELECT count(*) FROM pg_constraint WHERE conrelid = c.oid)))
		FROM pg_class c WHERE oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'jobs'::regclass)`); n != 1 {
		t.Errorf("the partitions are of %d kinds", n)
	}
	list := b.partitions()
	for i := 1; i < len(list)-1; i++ {
		if list[i].From != list[i-1].To {
			t.Errorf("a gap between %+v and %+v", list[i-1], list[i])
		}
	}
}

// TestPartitionsOfOthers: ranges that somebody else has made are left alone, and the gaps are filled.
func TestPartitionsOfOthers(t *testing.T) {
	b := partitioned(t)
	if err := (pgsource.Partitions{DatabaseURL: b.url}).Maintain(b.ctx); !errors.Is(err, pgsource.ErrNotPartitioned) {
		t.Errorf("nobody has asked for it: %v", err)
	}
	b.exec("DROP TABLE jobs_now; CREATE TABLE jobs_soon PARTITION OF jobs FOR VALUES FROM (date_trunc('day', now()) + interval '36 hours') TO (date_trunc('day', now()) + interval '40 hours')")
	if err := pgsource.ConvertToPartitions(b.ctx, b.url, 24*time.Hour); err != nil {
		t.Fatal(err)
	}
	if got := b.maintain(2, 0); len(got) != 4 {
		t.Errorf("changes %q, want today, two pieces of tomorrow, the day after", got)
	}
	if n := b.count("SELECT count(*) FROM pg_inherits WHERE inhparent = 'jobs'::regclass"); n != 8 {
		t.Errorf("%d partitions, want 8", n)
	}
}

// TestPartitionsRetained: a partition goes when all its jobs are finished, and not before: not with a
// job that nobody has claimed, that is in the journal, or that waits to be returned.
func TestPartitionsRetained(t *testing.T) {
	t.Parallel()
	b := converted(t, `INSERT INTO jobs (topic, fire_at, processed) SELECT 't', now() - n * interval '1 day', true FROM generate_series(0, 9) n`)
	gone := func(retain time.Duration) (dropped, kept int) {
		t.Helper()
		for _, change := range b.maintain(7, retain) {
			switch {
			case strings.HasPrefix(change, "dropped"):
				dropped++
			case strings.HasPrefix(change, "kept"):
				kept++
			default:
				t.Errorf("change %q", change)
			}
		}
		return dropped, kept
	}
	if dropped, kept := gone(5 * 24 * time.Hour); dropped != 4 || kept != 0 {
		t.Fatalf("dropped %d, kept %d, want 4 and 0", dropped, kept)
	}
	b.start(b.url)
	const retain = time.Hour
	b.exec("INSERT INTO jobs (id, topic, fire_at) VALUES (100, 't', now() - interval '3 days')")
	for _, step := range []struct {
		what string
		do   func()
	}{
		{"unclaimed", func() {}},
		{"in flight", func() { b.claim([]int64{100}) }},
		{"noted", func() {
			b.exec("TRUNCATE reactor.in_flight; INSERT INTO reactor.retries (job_id, attempts, retry_at, code, reason, claim, returned) SELECT id, 1, now(), 135, '', claim, false FROM jobs WHERE id = 100")
		}},
	} {
		step.do()
		if dropped, kept := gone(retain); kept != 1 {
			t.Errorf("%s: dropped %d, kept %d, want it kept", step.what, dropped, kept)
		}
	}
	b.exec("DELETE FROM reactor.retries")
	if dropped, kept := gone(retain); dropped != 1 || kept != 0 {
		t.Errorf("finished: dropped %d, kept %d, want it dropped", dropped, kept)
	}
}

// twoDays keeps the partitions of yesterday and the day before, at any time of day: that of three days ago ended two days ago, or
// more. An hour would keep yesterday's in the first hour of a day only.
const twoDays = 48 * time.Hour

// TestPartitionsDoNotStall: while a report holds the table, dropping gives up after each short
// attempt, and what comes after it in the queue goes on.
func TestPartitionsDoNotStall(t *testing.T) {
	b := converted(t, `INSERT INTO jobs (topic, fire_at, processed) VALUES ('t', now() - interval '5 days', true)`)
	report := connect(t, b.ctx, b.url)
	tx, err := report.Begin(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(b.ctx, "SELECT FROM jobs"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- pgsource.Partitions{DatabaseURL: b.url, Ahead: 7, Retain: twoDays, Patience: 2 * time.Second}.Maintain(b.ctx)
	}()
	slowest := time.Duration(0)
	for {
		begun := time.Now()
		b.exec("INSERT INTO jobs (topic, fire_at) VALUES ('t', now())")
		slowest = max(slowest, time.Since(begun))
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), "holds a lock") {
				t.Errorf("the report holds the table, and dropping a partition ends with %v", err)
			}
			if slowest > time.Second {
				t.Errorf("an insert took %v", slowest)
			}
			if err := tx.Rollback(b.ctx); err != nil {
				t.Fatal(err)
			}
			if got := b.maintain(7, twoDays); len(got) != 3 || strings.Count(strings.Join(got, "\n"), "dropped") != 3 {
				t.Errorf("afterwards: %q", got)
			}
			return
		default:
		}
	}
}

// TestInstancesMaintain: an instance makes partitions, and drops old ones, by itself.
func TestInstancesMaintain(t *testing.T) {
	t.Parallel()
	b := converted(t, `INSERT INTO jobs (topic, fire_at, processed) VALUES ('t', now() - interval '5 days', true)`)
	b.Source = open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, PartitionsAhead: 9, RetainPartitions: twoDays})
	b.member, b.lease = b.join(b.Source)
	b.eventually("partitions are made and dropped", `
		SELECT count(*) = 13 AND to_regclass('jobs_p' || to_char(now() AT TIME ZONE 'UTC' - interval '3 days', 'YYYYMMDD')) IS NULL FROM pg_inherits WHERE inhparent = 'jobs'::regclass`)
}

// TestRescheduledToAnotherPartition: an UPDATE of fire_at moves a row. It is announced, found by its
// id wherever it was looked for, and claimed at its new time.
func TestRescheduledToAnotherPartition(t *testing.T) {
	b := converted(t, "")
	b.start(b.url)
	b.exec("INSERT INTO jobs (id, topic, fire_at) VALUES (1, 't', now() + interval '3 days')")
	hints := make(chan driver.Hint, 10)
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	go func() { _ = b.Listen(ctx, func(h driver.Hint) { hints <- h }) }()
	<-hints // connected
	b.exec("UPDATE jobs SET fire_at = now() - interval '1 day' WHERE id = 1")
	for h := range hints {
		if h.Kind == driver.HintJobs {
			if h.MinID != 1 || h.MaxID != 1 || h.Earliest > b.now().Add(-23*time.Hour) {
				t.Errorf("hint %+v", h)
			}
			break
		}
	}
	now := b.now()
	req := b.request([]int64{1})
	req.From, req.To = now.Add(-time.Hour), now
	if batch, err := b.Claim(b.ctx, req); err != nil || len(batch.Jobs) != 0 {
		t.Errorf("claimed %+v, %v outside of its time", batch, err)
	}
	rows, err := b.LoadIDs(b.ctx, driver.AllShards, []int64{1}, now, now.Add(time.Hour), false)
	if err != nil || len(rows) != 0 {
		t.Errorf("loaded %+v, %v", rows, err)
	}
	rows, err = b.LoadIDs(b.ctx, driver.AllShards, []int64{1}, now, now.Add(time.Hour), true)
	if err != nil || len(rows) != 1 {
		t.Fatalf("everywhere: loaded %+v, %v", rows, err)
	}
	req = b.request([]int64{1})
	req.From, req.To = rows[0].FireAt, rows[0].DueAt
	batch, err := b.Claim(b.ctx, req)
	if err != nil || len(batch.Jobs) != 1 {
		t.Fatalf("claimed %+v, %v", batch, err)
	}
	// It is moved once more while it is in flight.
	b.exec("UPDATE jobs SET fire_at = now() + interval '2 days' WHERE id = 1")
	if recovered := b.recoverOne(); recovered.Jobs[0].Topic != "t" {
		t.Errorf("recovered %+v", recovered)
	}
	b.refuse(batch)
	b.eventually("the job goes back to the table", "SELECT NOT processed FROM jobs WHERE id = 1")
}

// TestClaimOfMovingRow: PostgreSQL refuses a claim with a row that somebody has moved to another
// partition since the claim began. The claim is made again, for the others.
func TestClaimOfMovingRow(t *testing.T) {
	b := converted(t, "")
	b.start(b.url)
	b.exec("INSERT INTO jobs (id, topic, fire_at) SELECT n, 't', now() - interval '1 second' FROM generate_series(1, 3) n")
	// The claim waits for its lane; its snapshot is from before the row moves.
	holder := connect(t, b.ctx, b.url)
	tx, err := holder.Begin(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(b.ctx, "SELECT FROM reactor.lanes FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	type outcome struct {
		batch driver.Batch
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		batch, err := b.Claim(b.ctx, b.request([]int64{1, 2, 3}))
		done <- outcome{batch, err}
	}()
	for b.count("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%lease AS MATERIALIZED%'") == 0 {
	}
	b.exec("UPDATE jobs SET fire_at = now() + interval '2 days' WHERE id = 2")
	if err := tx.Rollback(b.ctx); err != nil {
		t.Fatal(err)
	}
	if got := <-done; got.err != nil || !slices.Equal(idsOf(got.batch), []int64{1, 3}) {
		t.Errorf("claimed %v, %v, want 1 and 3", idsOf(got.batch), got.err)
	}
	if n := b.count("SELECT count(*) FROM jobs WHERE NOT processed"); n != 1 {
		t.Errorf("%d jobs are unprocessed, want 1", n)
	}
}
