package pgsource_test

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/pgsource"
)

// guardRule is the constraint that keeps instances of version 5 from a row.
const guardRule = "reactor before version 6 of the schema cannot publish this job"

//go:embed testdata/claim_v5.sql
var claimV5 string

// oldInstance does what an instance of version 5 does, by its statements, with a lane of its own.
type oldInstance struct {
	*bench
	id, epoch int64
	lane      int32
	conn      *pgx.Conn
}

// oldInstance has an instance of version 5 run that owns all shards and a lane.
func (b *bench) oldInstance(id int64, lane int32) *oldInstance {
	b.t.Helper()
	o := &oldInstance{bench: b, id: id, epoch: 1, lane: lane, conn: connect(b.t, b.ctx, b.url)}
	b.exec("INSERT INTO reactor.instances (id, name, backends, dynamic, feed, shard_hints) VALUES ($1::bigint, 'old ' || $1::bigint, 'old', true, 'notify', true)", id)
	b.exec("INSERT INTO reactor.lanes (lane, owner, epoch) VALUES ($1, $2, 1)", lane, id)
	b.exec("UPDATE reactor.shards SET owner = $1", id)
	return o
}

// claim returns the ids that it has claimed.
func (o *oldInstance) claim(ctx context.Context, ids ...int64) ([]int64, error) {
	var token [16]byte
	rand.Read(token[:])
	rows, err := o.conn.Query(ctx, claimV5, pgx.QueryExecModeExec,
		o.lane, o.id, o.epoch, ids, time.Second, []int16(nil), fmt.Sprintf("%x", token), int16(2), int32(1), int32(512), int64(1<<20))
	if err != nil {
		return nil, err
	}
	claimed, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (int64, error) {
		values, err := row.Values()
		if err != nil {
			return 0, err
		}
		return values[1].(int64), nil // after the number of the batch
	})
	slices.Sort(claimed)
	return claimed, err
}

// adopt takes lanes over, as its plan of the membership would, and returns those that it owns then.
func (o *oldInstance) adopt(lanes ...int32) []int32 {
	o.t.Helper()
	o.exec("UPDATE reactor.lanes SET owner = $1, epoch = greatest(epoch + 2, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) WHERE lane = ANY ($2)", o.id, lanes)
	rows, err := o.bench.conn.Query(o.ctx, "SELECT lane FROM reactor.lanes WHERE owner = $1 AND lane <> $2 ORDER BY lane", o.id, o.lane)
	if err != nil {
		o.t.Fatal(err)
	}
	owned, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil {
		o.t.Fatal(err)
	}
	return owned
}

// quarantine records why a job cannot be claimed, as it does.
func (o *oldInstance) quarantine(id int64, reason string) {
	o.t.Helper()
	o.exec(`INSERT INTO reactor.failed_jobs (job_id, attempts, code, reason)
		SELECT job_id, 0, 0, reason FROM unnest($1::bigint[], $2::text[]) AS bad (job_id, reason)
		ON CONFLICT (job_id) DO UPDATE SET failed_at = excluded.failed_at, reason = excluded.reason, attempts = 0, code = 0, claim = NULL
		 WHERE failed_jobs.reason <> excluded.reason`, []int64{id}, []string{reason})
}

func refusedByGuard(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == pgerrcode.CheckViolation && pgErr.ConstraintName == guardRule
}

// newColumns are rows that an instance of version 5 does not understand, by what they have.
var newColumns = map[string]string{
	"payload_bytes": `'\x01'`, "qos": "1", "retain": "true", "content_type": "'c'", "response_topic": "'r'", "correlation_data": `'\x'`, "headers": "'{}'", "key": "'k'", "ordering_key": "'o'",
}

// TestVersionFiveRunsOn: an instance of version 5 publishes plain jobs while the schema becomes version 6,
// and afterwards; what it does not understand it leaves alone, and one of this version publishes it.
func TestVersionFiveRunsOn(t *testing.T) {
	b := versionFive(t)
	old := b.oldInstance(7, 1)

	// It claims while the schema changes.
	var (
		claims  sync.WaitGroup
		started = make(chan struct{})
		stop    = make(chan struct{})
		count   int
	)
	producer := connect(t, b.ctx, b.url)
	claims.Go(func() {
		for ; ; count++ {
			if count == 20 {
				close(started)
			}
			select {
			case <-stop:
				return
			default:
			}
			var id int64
			if err := producer.QueryRow(b.ctx, "INSERT INTO jobs (topic, fire_at) VALUES ('plain', now()) RETURNING id").Scan(&id); err != nil {
				t.Errorf("insert: %v", err)
			}
			ids, err := old.claim(b.ctx, id)
			for sqlStateOf(err) == pgerrcode.DeadlockDetected { // it tries again, as nothing was claimed
				ids, err = old.claim(b.ctx, id)
			}
			if err != nil || !slices.Equal(ids, []int64{id}) {
				t.Errorf("claimed %v, %v", ids, err)
			}
		}
	})
	<-started
	if names := b.migrateUp(b.url); !slices.Equal(names, []string{"managed", "observed"}) {
		t.Errorf("applied %v", names)
	}
	close(stop)
	claims.Wait()
	if n := b.count("SELECT count(*) FROM jobs WHERE topic = 'plain' AND processed AND claim IS NOT NULL"); n != count {
		t.Errorf("%d of %d plain jobs are claimed", n, count)
	}
	if n := b.count("SELECT coalesce(sum(cardinality(job_ids)), 0) FROM reactor.in_flight"); n != count {
		t.Errorf("%d of %d claims are in the journal", n, count)
	}

	var foreign []int64
	for column, value := range newColumns {
		id := int64(b.count("INSERT INTO jobs (topic, fire_at, " + column + ") VALUES ('new', now(), " + value + ") RETURNING id"))
		foreign = append(foreign, id)
		plain := b.insert(1, "0")
		if ids, err := old.claim(b.ctx, id, plain[0]); !refusedByGuard(err) {
			t.Errorf("a row with %s: claimed %v, %v", column, ids, err)
		}
		if ids, err := old.claim(b.ctx, plain[0]); err != nil || !slices.Equal(ids, plain) {
			t.Errorf("beside a row with %s: claimed %v, %v", column, ids, err)
		}
	}
	// The jobs of a schedule that have nothing else are plain ones.
	occurrence := int64(b.count("INSERT INTO jobs (topic, fire_at, schedule_id, occurrence_at) VALUES ('plain', now(), 1, now()) RETURNING id"))
	if ids, err := old.claim(b.ctx, occurrence); err != nil || len(ids) != 1 {
		t.Errorf("claimed %v, %v", ids, err)
	}
	// A plain row that it has claimed cannot become one that it does not understand.
	b.exec("INSERT INTO jobs (id, topic, fire_at) VALUES (-1, 'plain', now())")
	if _, err := old.claim(b.ctx, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := b.conn.Exec(b.ctx, "UPDATE jobs SET retain = true WHERE id = -1"); !refusedByGuard(err) {
		t.Errorf("while it is published, a job is changed: %v", err)
	}
	b.exec("UPDATE jobs SET retain = true, processed = false WHERE id = -1") // to publish it again
	foreign = append(foreign, -1)

	// An application may cancel such a job by hand.
	b.exec("INSERT INTO jobs (id, topic, fire_at, key) VALUES (-2, 'new', now(), 'cancelled')")
	b.exec("UPDATE jobs SET processed = true WHERE id = -2")

	b.exec("DELETE FROM reactor.instances; UPDATE reactor.lanes SET owner = NULL")
	b.start(b.url)
	for _, id := range foreign { // they may be of several QoS
		if batch := b.claim([]int64{id}); len(batch.Jobs) != 1 || batch.Jobs[0].ID != id {
			t.Errorf("this version claims %+v of job %d", batch, id)
		}
	}
	if n := b.count("SELECT schema_version FROM reactor.instances"); n != 7 {
		t.Errorf("this version says that it knows version %d", n)
	}
}

func sqlStateOf(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// TestVersionFiveTakesNoStrangeLane: it would send again, without their properties, what is in the journal
// of a lane of this version; so it does not get that lane. It gets all others, and that one when those
// jobs have ended.
func TestVersionFiveTakesNoStrangeLane(t *testing.T) {
	b := newBench(t)
	ids := b.insert(3, "0")
	b.exec("UPDATE jobs SET content_type = 'c' WHERE id = $1", ids[1])
	batch := b.claim(ids)
	old := b.oldInstance(7, 5)
	strange := b.lease.Lane
	b.exec("INSERT INTO reactor.lanes (lane, owner, epoch) VALUES (6, NULL, 1), (8, NULL, 1)")
	b.exec("INSERT INTO jobs (id, topic, fire_at, processed, claim) VALUES (-1, 'plain', now(), true, '00000000-0000-4000-8000-000000000001')")
	b.exec("INSERT INTO reactor.in_flight (lane, epoch, token, qos, first_slot, job_ids) VALUES (6, 1, '00000000-0000-4000-8000-000000000001', 2, 1, '{-1}')")
	if owned := old.adopt(strange, 6, 8); !slices.Equal(owned, []int32{6, 8}) {
		t.Errorf("it owns the lanes %v, want 6 and 8", owned)
	}
	if n := b.count("SELECT count(*) FROM reactor.lanes WHERE lane = $1 AND owner = $2 AND epoch = $3", strange, b.lease.Owner, b.lease.Epoch); n != 1 {
		t.Error("the lane has changed")
	}
	// Neither by creating it again.
	b.exec("UPDATE reactor.lanes SET owner = NULL WHERE lane = $1", strange)
	b.exec("DELETE FROM reactor.lanes WHERE lane = $1", strange)
	b.exec("INSERT INTO reactor.lanes (lane, owner, epoch) VALUES ($1, 7, 1)", strange)
	if n := b.count("SELECT count(*) FROM reactor.lanes WHERE lane = $1", strange); n != 0 {
		t.Error("it has created the lane")
	}

	// One of this version does, and settles it.
	if plan, err := pgsource.PlanDown(b.ctx, b.url); err == nil {
		t.Errorf("the version may be undone while an instance runs: %+v", plan)
	}
	b.exec("INSERT INTO reactor.lanes (lane, owner, epoch) VALUES ($1, $2, $3)", strange, b.lease.Owner, b.lease.Epoch)
	b.published(batch)
	b.exec("UPDATE reactor.lanes SET owner = NULL WHERE lane = $1", strange)
	if owned := old.adopt(strange); !slices.Contains(owned, strange) {
		t.Errorf("it owns the lanes %v, and %d has nothing strange any more", owned, strange)
	}
}

// TestVersionFiveDoesNotEndOrderedJobs: that it cannot claim a job is recorded, except of an ordered one:
// those behind it would take that for its end.
func TestVersionFiveDoesNotEndOrderedJobs(t *testing.T) {
	b := newBench(t)
	b.exec("INSERT INTO jobs (id, topic, fire_at, ordering_key, key) VALUES (1, 't', now(), 'o', NULL), (2, 't', now(), 'o', NULL), (3, 't', now(), NULL, 'k')")
	old := b.oldInstance(7, 5)
	_, err := old.claim(b.ctx, 1, 3)
	if !refusedByGuard(err) {
		t.Fatal(err)
	}
	old.quarantine(1, "cannot be claimed: "+err.Error())
	old.quarantine(3, "cannot be claimed: "+err.Error())
	old.quarantine(2, "cannot be claimed: a trigger of the application says no")
	if n := b.count("SELECT sum(job_id) FROM reactor.failed_jobs"); n != 5 {
		t.Errorf("the sum of the recorded jobs is %d, want 2 + 3", n)
	}
	b.exec("DELETE FROM reactor.failed_jobs WHERE job_id = 2")
	b.exec("UPDATE reactor.shards SET owner = $1", b.lease.Owner)
	if batch := b.claim([]int64{2}); len(batch.Jobs) != 0 {
		t.Error("a job is claimed before the one in front of it")
	}
	if batch := b.claim([]int64{1, 3}); len(batch.Jobs) != 2 {
		t.Errorf("claimed %v", idsOf(batch))
	}
	if n := b.count("SELECT count(*) FROM reactor.failed_jobs"); n != 0 {
		t.Errorf("%d records are left of jobs that were claimed", n)
	}
}

// TestDownWithJobsOnTheirWay: what an instance of this version has claimed, and not settled when it was
// killed, must not be recovered by one of version 5. What was not claimed stays, and version 5 leaves it
// alone.
func TestDownWithJobsOnTheirWay(t *testing.T) {
	for name, partitions := range map[string]bool{"plain": false, "partitions": true} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.exec("INSERT INTO jobs (id, topic, fire_at, headers) VALUES (1, 't', now(), '{}'), (2, 't', now(), NULL)")
			batch := b.claim([]int64{1, 2})
			down := func() error {
				b.exec("UPDATE reactor.instances SET heartbeat_at = '2000-01-01'")
				defer b.exec("UPDATE reactor.instances SET heartbeat_at = now()")
				if partitions {
					if _, err := b.conn.Exec(b.ctx, "SELECT FROM jobs_default"); err != nil {
						if err := pgsource.ConvertToPartitions(b.ctx, b.url, 24*time.Hour); err != nil {
							t.Fatal(err)
						}
					}
				}
				for {
					plan, err := pgsource.PlanDown(b.ctx, b.url)
					if err != nil || plan.Version == 5 {
						return err
					}
					if _, err = pgsource.MigrateDown(b.ctx, b.url, plan); err != nil {
						return err
					}
				}
			}
			if err := down(); err == nil || !strings.Contains(err.Error(), "1 jobs are on their way") || strings.Contains(err.Error(), "\n") {
				t.Errorf("undoing the version says %v", err)
			}
			b.published(batch)
			b.exec("INSERT INTO jobs (id, topic, fire_at, headers) VALUES (3, 't', now(), '{}')")
			if err := down(); err != nil {
				t.Fatal(err)
			}
			b.exec("DELETE FROM reactor.instances; DELETE FROM reactor.lanes")
			if !partitions { // the statement is that for one table
				if ids, err := b.oldInstance(7, 5).claim(b.ctx, 3); !refusedByGuard(err) {
					t.Errorf("version 5 claims %v, %v", ids, err)
				}
			}
			b.migrateUp(b.url)
			b.exec("DELETE FROM reactor.instances; DELETE FROM reactor.lanes")
			b.start(b.url)
			if batch := b.claim([]int64{3}); len(batch.Jobs) != 1 {
				t.Errorf("claimed %+v", batch)
			}
		})
	}
}

// TestMigrationWaitsInTurns: while a long transaction keeps the schema from being changed, instances go on;
// they do not stand behind the migration in the queue for the lock.
func TestMigrationWaitsInTurns(t *testing.T) {
	b := versionFive(t)
	old := b.oldInstance(7, 1)
	reader := connect(t, b.ctx, b.url)
	if _, err := reader.Exec(b.ctx, "BEGIN; SELECT FROM jobs"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := pgsource.MigrateUp(b.ctx, b.url)
		done <- err
	}()
	b.eventually("the migration waits for the table", "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 'jobs'::regclass AND mode = 'AccessExclusiveLock'")
	// This returns though the reader's transaction is open.
	if _, err := old.conn.Exec(b.ctx, "SET lock_timeout = '20s'"); err != nil {
		t.Fatal(err)
	}
	ids := make([]int64, 3)
	for i := range ids {
		if err := old.conn.QueryRow(b.ctx, "INSERT INTO jobs (topic, fire_at) VALUES ('t', now()) RETURNING id").Scan(&ids[i]); err != nil {
			t.Fatal(err)
		}
	}
	if claimed, err := old.claim(b.ctx, ids...); err != nil || len(claimed) != 3 {
		t.Errorf("claimed %v, %v", claimed, err)
	}
	select {
	case err := <-done:
		t.Fatalf("the migration has ended: %v", err)
	default:
	}
	if _, err := reader.Exec(b.ctx, "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
