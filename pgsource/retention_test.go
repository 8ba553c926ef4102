package pgsource_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
)

const hour = time.Hour

// purge deletes what has ended more than an hour ago, and returns the ids of what could not be deleted.
func (b *bench) purge() (done pgsource.Purged, skipped []int64) {
	b.t.Helper()
	done, err := pgsource.Retention{DatabaseURL: b.url, Keep: hour, Busy: 1, Skip: func(id int64, _ error) { skipped = append(skipped, id) }}.Purge(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	return done, skipped
}

// tablesOfJobs runs a test on each kind of table, with and without the index for retention.
func tablesOfJobs(t *testing.T, do func(t *testing.T, b *bench)) {
	for _, indexed := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain, index %t", indexed), func(t *testing.T) {
			b := newBench(t)
			if indexed {
				b.exec(pgsource.RetentionIndexSQL("public.jobs"))
			}
			do(t, b)
		})
		t.Run(fmt.Sprintf("partitions, index %t", indexed), func(t *testing.T) {
			b := converted(t, "")
			if indexed {
				for _, p := range b.partitions() {
					b.exec(pgsource.RetentionIndexSQL(p.Name))
				}
			}
			b.start(b.url)
			do(t, b)
		})
	}
}

// TestPurgeEnded: what has ended long ago goes, in whatever way it has ended, with what is noted of it; the
// rest stays: what waits, what has ended lately, and what is old and has not ended.
func TestPurgeEnded(t *testing.T) {
	t.Parallel()
	tablesOfJobs(t, func(t *testing.T, b *bench) {
		of, unlock := b.eachState()
		b.exec("UPDATE reactor.retries SET retry_at = now()")
		unlock()
		// The locked row was not changed by this.
		b.exec("UPDATE jobs SET fire_at = fire_at - interval '2 hours', processed_at = processed_at - interval '2 hours'")
		b.exec(`INSERT INTO jobs (id, topic, fire_at, processed, processed_at) VALUES
			(100, 'cancelled long ago', now() - interval '3 hours', true, NULL), (101, 'cancelled, was due later', now() + interval '1 hour', true, NULL),
			(102, 'lately', now() - interval '3 hours', true, now() - interval '59 minutes'), (103, 'waits', now() - interval '3 hours', false, NULL)`)
		b.exec("INSERT INTO jobs (id, topic, fire_at, processed, processed_at) SELECT n, 'fired', now() - interval '5 days', true, now() - interval '5 days' FROM generate_series(10001, 13500) n")
		done, skipped := b.purge()
		if want := int64(3500 + 4 + 1); done.Rows != want || skipped != nil {
			t.Errorf("deleted %d rows, want %d; skipped %v", done.Rows, want, skipped)
		}
		want := []int64{100}
		for state, id := range of {
			if state.Final() {
				want = append(want, id)
			}
			if n := b.count("SELECT count(*) FROM jobs WHERE id = $1", id); (n == 0) != state.Final() {
				t.Errorf("a job that is %s: %d rows", state, n)
			}
		}
		if n := b.count("SELECT count(*) FROM jobs WHERE id = ANY ($1)", want); n != 0 {
			t.Errorf("%d jobs that have ended are there", n)
		}
		if n := b.count("SELECT count(*) FROM jobs WHERE id IN (101, 102, 103)"); n != 3 {
			t.Errorf("%d of 3 jobs are left", n)
		}
		if n := b.count("SELECT count(*) FROM reactor.failed_jobs WHERE job_id <> $1", of[pgsource.JobBlocked]); n != 0 {
			t.Errorf("%d records are left of deleted jobs", n)
		}
		if n := b.count("SELECT count(*) FROM reactor.failed_jobs"); n != 1 {
			t.Error("the record of the job that cannot be claimed is gone")
		}
		if done, _ := b.purge(); done != (pgsource.Purged{}) {
			t.Errorf("the second time: %+v", done)
		}
	})
}

// TestPurgeKeepsRecovery: a job in the journal keeps its row, however old, so that a recovery publishes
// it; and so does one whose batch was claimed by a version that did not sign rows.
func TestPurgeKeepsRecovery(t *testing.T) {
	t.Parallel()
	tablesOfJobs(t, func(t *testing.T, b *bench) {
		ids := b.insert(20, "-5 hours")
		b.claim(ids[:10])
		b.exec("UPDATE jobs SET processed = true, processed_at = fire_at")
		b.exec("INSERT INTO reactor.in_flight (lane, epoch, token, qos, first_slot, job_ids) SELECT lane, epoch, gen_random_uuid(), 1, 100, $2 FROM reactor.lanes WHERE lane = $1", b.lease.Lane, ids[10:15])
		if done, _ := b.purge(); done.Rows != 5 {
			t.Errorf("deleted %d rows, want the 5 that are in no batch", done.Rows)
		}
		if n := b.count("SELECT count(*) FROM jobs WHERE id = ANY ($1)", ids[:15]); n != 15 {
			t.Errorf("%d of 15 rows are left", n)
		}
	})
}

// TestPurgeWaitsForNobody: a locked row, and one that a trigger or a foreign key protects, stay and do
// not keep others from being deleted.
func TestPurgeWaitsForNobody(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.exec(pgsource.RetentionIndexSQL("public.jobs"))
	// All with the same time, so that the position depends on the id.
	b.exec("INSERT INTO jobs (topic, fire_at, processed) SELECT 't', now() - interval '1 day', true FROM generate_series(1, 3000)")
	b.exec("CREATE TABLE mine (job bigint REFERENCES jobs (id)); INSERT INTO mine VALUES (5), (1500), (3000)")
	holder := connect(t, b.ctx, b.url)
	if _, err := holder.Exec(b.ctx, "BEGIN; SELECT FROM jobs WHERE id IN (7, 2000) FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	done, skipped := b.purge()
	if done.Rows != 2995 || !slices.Equal(skipped, []int64{5, 1500, 3000}) {
		t.Errorf("deleted %d, skipped %v", done.Rows, skipped)
	}
	if _, err := holder.Exec(b.ctx, "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	b.exec("TRUNCATE mine")
	if done, _ := b.purge(); done.Rows != 5 {
		t.Errorf("afterwards %d were deleted, want 5", done.Rows)
	}
}

// TestPurgeBeingChanged: a row that somebody is changing is left alone, without waiting, and goes when
// it still has to afterwards.
func TestPurgeBeingChanged(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ids := b.insert(1, "-1 day")
	b.exec("UPDATE jobs SET processed = true, processed_at = fire_at, claim = gen_random_uuid()")
	holder := connect(t, b.ctx, b.url)
	if _, err := holder.Exec(b.ctx, "BEGIN; UPDATE jobs SET claim = gen_random_uuid()"); err != nil {
		t.Fatal(err)
	}
	if done, _ := b.purge(); done.Rows != 0 {
		t.Errorf("deleted %d rows that somebody was changing", done.Rows)
	}
	if _, err := holder.Exec(b.ctx, "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if done, _ := b.purge(); done.Rows != 1 || b.count("SELECT count(*) FROM jobs WHERE id = $1", ids[0]) != 0 {
		t.Errorf("afterwards %d were deleted", done.Rows)
	}
}

// TestPurgeAlone: while one purges, another one does not.
func TestPurgeAlone(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	b.exec("SELECT pg_advisory_lock(x'7075726765'::bigint)")
	if _, err := (pgsource.Retention{DatabaseURL: b.url, Keep: hour}).Purge(b.ctx); err != pgsource.ErrPurging {
		t.Errorf("ended with %v", err)
	}
	b.exec("SELECT pg_advisory_unlock_all()")
	b.purge()
}

// TestOrphans: a record goes when its row is gone, in whatever way, and not before.
func TestOrphans(t *testing.T) {
	t.Parallel()
	tablesOfJobs(t, func(t *testing.T, b *bench) {
		of, unlock := b.eachState()
		unlock()
		aged := func() { b.exec("UPDATE reactor.failed_jobs SET failed_at = now() - interval '20 minutes'") }
		if done, _ := b.purge(); done.Records != 0 {
			t.Errorf("deleted %d young records", done.Records)
		}
		aged()
		if done, _ := b.purge(); done.Records != 0 {
			t.Errorf("deleted %d records of jobs that are there", done.Records)
		}
		b.exec("DELETE FROM jobs WHERE id = $1", of[pgsource.JobFailed])
		b.exec("UPDATE jobs SET claim = gen_random_uuid() WHERE id = $1", of[pgsource.JobExpired]) // another row
		b.exec("UPDATE jobs SET topic = 'mended' WHERE id = $1", of[pgsource.JobBlocked])
		if done, _ := b.purge(); done.Records != 3 {
			t.Errorf("deleted %d records, want 3", done.Records)
		}
		b.exec("TRUNCATE jobs RESTART IDENTITY")
		b.insert(9, "1 hour")
		aged()
		if done, _ := b.purge(); done.Records != 1 || b.count("SELECT count(*) FROM reactor.failed_jobs") != 0 {
			t.Errorf("deleted %d records after the table was truncated, want the last", done.Records)
		}
	})
}

// TestPurgeByIndex: with the index no statement reads the table as a whole, and once nothing is left to
// delete it reads no more than the place in the index.
func TestPurgeByIndex(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.exec(pgsource.RetentionIndexSQL("public.jobs"))
	b.exec("INSERT INTO jobs (topic, fire_at, processed, processed_at) SELECT 't', now() - interval '1 day', true, now() - CASE WHEN n > 5000 THEN interval '1 minute' ELSE interval '1 day' END FROM generate_series(1, 20000) n")
	b.exec("VACUUM ANALYZE jobs")
	quiet := func() {
		b.eventually("the sessions have ended", "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' AND application_name NOT LIKE 'reactor-%' AND pid <> pg_backend_pid()")
	}
	quiet()
	const read = "SELECT coalesce(sum(seq_scan), 0)::int, coalesce((SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname LIKE 'jobs_coalesce%'), 0)::int FROM pg_stat_user_tables WHERE relname = 'jobs'"
	at := func() (scans, entries int) {
		b.exec("SELECT pg_stat_force_next_flush()") // what this session has counted, the making of the index included
		if err := b.conn.QueryRow(b.ctx, read).Scan(&scans, &entries); err != nil {
			t.Fatal(err)
		}
		return scans, entries
	}
	scans, _ := at()
	if done, _ := b.purge(); done.Rows != 5000 {
		t.Fatalf("deleted %d rows", done.Rows)
	}
	quiet()
	b.eventually("the index was used", "SELECT idx_scan > 0 FROM pg_stat_user_indexes WHERE indexrelname LIKE 'jobs_coalesce%'")
	after, entries := at()
	if after != scans || entries > 6000 {
		t.Errorf("%d scans of the table, and %d entries of the index for 5000 rows", after-scans, entries)
	}
}

// TestRetain: an instance creates the index, deletes what has ended, and goes on publishing.
func TestRetain(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	b.exec("INSERT INTO jobs (topic, fire_at, processed) SELECT 't', now() - interval '1 day', true FROM generate_series(1, 2500)")
	b.Source = open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, RetryAttempts: 2, Retain: hour})
	b.member, b.lease = b.join(b.Source)
	ids := b.insert(10, "-1 second")
	b.eventually("the old rows are gone", "SELECT count(*) = 10 FROM jobs")
	if n := b.count("SELECT count(*) FROM pg_indexes WHERE tablename = 'jobs' AND indexdef LIKE '%COALESCE(processed_at, fire_at), id) WHERE processed'"); n != 1 {
		t.Errorf("%d indexes for retention", n)
	}
	if batch := b.claim(ids); len(batch.Jobs) != 10 {
		t.Errorf("claimed %d jobs", len(batch.Jobs))
	}
}

// TestRetainPartitionsOnly: where only whole partitions are dropped, the records of their jobs go as well,
// no row is deleted by itself, and no index is created.
func TestRetainPartitionsOnly(t *testing.T) {
	t.Parallel()
	b := converted(t, "")
	b.exec("INSERT INTO jobs (topic, fire_at, processed) SELECT 't', now() - interval '1 minute', true FROM generate_series(1, 10)")
	b.exec("INSERT INTO reactor.failed_jobs (job_id, failed_at, attempts, code, reason, claim) VALUES (777, now() - interval '1 hour', 1, 135, 'no', gen_random_uuid())")
	b.Source = open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, RetainPartitions: 24 * hour})
	b.member, b.lease = b.join(b.Source)
	b.eventually("the record is gone", "SELECT count(*) = 0 FROM reactor.failed_jobs")
	if n := b.count("SELECT count(*) FROM jobs"); n != 10 {
		t.Errorf("%d jobs are left, want 10", n)
	}
	if n := b.count("SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%COALESCE(processed_at%'"); n != 0 {
		t.Errorf("%d indexes for retention", n)
	}
}

// TestRetainNotOwner: an instance that does not own the table says which index it lacks, and deletes
// nothing; when the index is there it deletes.
func TestRetainNotOwner(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	role, url := b.role("")
	b.grant(role)
	b.exec("INSERT INTO jobs (topic, fire_at, processed) SELECT 't', now() - interval '1 day', true FROM generate_series(1, 10)")
	_, err := pgsource.Retention{DatabaseURL: url, Keep: hour}.Purge(b.ctx)
	if err == nil || !strings.Contains(err.Error(), "GRANT DELETE") || strings.Contains(err.Error(), "\n") {
		t.Errorf("without the right to delete: %v", err)
	}
	b.exec("GRANT DELETE ON jobs TO " + role)
	said := make(chan string, 10)
	b.Source = openLogging(t, b.ctx, pgsource.Config{DatabaseURL: url, Retain: hour}, said)
	b.member, b.lease = b.join(b.Source)
	for line := ""; !strings.Contains(line, pgsource.RetentionIndexSQL("public.jobs")); {
		select {
		case line = <-said:
		case <-b.ctx.Done():
			t.Fatal("the log lacks the statement")
		}
	}
	if n := b.count("SELECT count(*) FROM jobs"); n != 10 {
		t.Errorf("%d jobs are left without the index", n)
	}
	b.Close()
	b.exec(pgsource.RetentionIndexSQL("public.jobs"))
	b.Source = open(t, b.ctx, pgsource.Config{DatabaseURL: url, Retain: hour})
	b.member, b.lease = b.join(b.Source)
	b.eventually("the old rows are gone", "SELECT count(*) = 0 FROM jobs")
}

// TestRetainMendsIndex: an index that an attempt has left invalid is dropped and created again.
func TestRetainMendsIndex(t *testing.T) {
	t.Parallel()
	b := examine(t, testkit.NewDatabase(t))
	b.exec("INSERT INTO jobs (topic, fire_at, processed) SELECT 't', now() - interval '1 day', true FROM generate_series(1, 10)")
	b.exec(pgsource.RetentionIndexSQL("public.jobs"))
	b.exec("UPDATE pg_index SET indisvalid = false WHERE pg_get_indexdef(indexrelid) LIKE '%COALESCE(processed_at%'")
	b.Source = open(t, b.ctx, pgsource.Config{DatabaseURL: b.url, Retain: hour})
	b.member, b.lease = b.join(b.Source)
	b.eventually("the old rows are gone", "SELECT count(*) = 0 FROM jobs")
	if n := b.count("SELECT count(*) FROM pg_index WHERE indrelid = 'jobs'::regclass AND pg_get_indexdef(indexrelid) LIKE '%COALESCE(processed_at%'"); n != 1 {
		t.Errorf("%d indexes for retention", n)
	}
}

// openLogging opens a source whose log lines go to a channel, as far as there is room.
func openLogging(t *testing.T, ctx context.Context, cfg pgsource.Config, said chan<- string) *pgsource.Source {
	t.Helper()
	cfg.Logger = slog.New(slog.NewTextHandler(lineWriter(said), nil))
	s, err := pgsource.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

type lineWriter chan<- string

func (w lineWriter) Write(line []byte) (int, error) {
	select {
	case w <- string(line):
	default:
	}
	return len(line), nil
}
