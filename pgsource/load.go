package pgsource

import (
	"cmp"
	"context"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Loading reads jobs that nobody has claimed yet. It locks nothing and decides nothing: rows may be
// claimed, moved or deleted while we read, and the claim checks them again. A job that the broker
// refused is due at its next attempt.

// loadWindowSQL reads each shard's part of the index jobs_pending from the shard's cursor on. One
// ordered scan a shard, each with its own limit, reads no more than it returns; a single scan over
// all shards would have to sort everything that is due first.
var loadWindowSQL = `
SELECT job.id, job.shard, job.fire_at, ` + nextTrySQL + `, job.bytes, ` + orderingSQL + `
  FROM unnest($1::smallint[], $2::timestamptz[], $3::bigint[]) AS cursor (shard, after_at, after_id)
 CROSS JOIN LATERAL (
       SELECT id, shard, fire_at, claim, ordering_key, ` + sizeSQL + ` AS bytes
         FROM {jobs}
        WHERE NOT processed AND shard = cursor.shard
          AND (fire_at, id) > (cursor.after_at, cursor.after_id) AND fire_at < $4{from $6}{from cursor.after_at}
        ORDER BY fire_at, id LIMIT $5) AS job`

// nextTrySQL computes when a job is due: at fire_at, or later at its next attempt. Another row with
// the same id, whose claim is a different one or NULL, does not wait for that; a note without a
// claim is from before version 3, and identifies the row by its id. Retries exist only while a
// broker refuses something, so the statement checks once whether there are any, and not for each
// job: that was two thirds of the cost of a load.
var nextTrySQL = `
       CASE WHEN ` + anyRetries + `
            THEN greatest(job.fire_at, (SELECT retry_at FROM reactor.retries r WHERE r.job_id = job.id AND (r.claim = job.claim OR r.claim IS NULL)))
            ELSE job.fire_at END`

// anyRetries and anyFailed tell whether it is worth searching these tables for single rows.
var anyRetries, anyFailed = worthLooking("reactor.retries"), worthLooking("reactor.failed_jobs")

// worthLooking is false if a table is known to be empty. Finding that out reads all deleted rows
// that an old snapshot keeps, in each statement: that takes seconds after a million retries. So
// only a small table is checked, and a large one counts as not empty.
func worthLooking(table string) string {
	const small = "262144" // bytes
	return "(SELECT CASE WHEN pg_relation_size('" + table + "') > " + small + " THEN true ELSE EXISTS (SELECT FROM " + table + ") END)"
}

// pending is the condition of an unprocessed row, for statements that find their rows by ids. It is
// written so that it does not match the partial index jobs_pending: the planner takes that for
// empty, or for small on a table that was not analyzed, and would walk every dead entry of it. A
// claim of four jobs read 9,000 pages under an old snapshot, after 12,000 jobs.
const pending = "coalesce(NOT processed, false)"

// loadSQL reads rows by their ids.
var loadSQL = `
SELECT job.id, job.shard, job.fire_at, ` + nextTrySQL + `, ` + sizeSQL + `, ` + orderingSQL + `
  FROM {jobs} AS job
 WHERE ` + pending + ` AND shard = ANY ($1::smallint[]) AND fire_at < $2 AND `

// LoadWindow implements driver.Loader.
func (s *Source) LoadWindow(ctx context.Context, cursors []driver.Cursor, until driver.DBTime, limit int) ([]driver.Pending, []driver.Cursor, error) {
	// If fewer rows may be read than there are shards, the shards take turns.
	now, later := cursors, []driver.Cursor(nil)
	if len(cursors) > limit {
		now, later = cursors[:limit], cursors[limit:]
	}
	if len(now) == 0 {
		return nil, nil, nil
	}
	perShard := limit / len(now)
	var (
		shards  = make([]int16, len(now))
		afterAt = make([]dbTime, len(now))
		afterID = make([]int64, len(now))
	)
	for i, c := range now {
		shards[i], afterAt[i], afterID[i] = int16(c.Shard), dbTime{c.AfterAt}, c.AfterID
	}
	first := slices.MinFunc(now, func(a, b driver.Cursor) int { return cmp.Compare(a.AfterAt, b.AfterAt) })
	table := s.jobs()
	jobs, last, err := s.load(ctx, true, table.loadWindow, table.after([]any{shards, afterAt, afterID, dbTime{until}, perShard}, first.AfterAt))
	if err != nil {
		return nil, nil, s.failed("load window", err)
	}
	var rest []driver.Cursor
	rest = append(rest, later...)
	for _, l := range last {
		if l.rows == perShard { // there may be more
			rest = append(rest, l.Cursor)
		}
	}
	return jobs, rest, nil
}

// LoadRange implements driver.Loader.
func (s *Source) LoadRange(ctx context.Context, shards driver.ShardSet, minID, maxID int64, from, until driver.DBTime) ([]driver.Pending, error) {
	if shards == 0 {
		return nil, nil
	}
	table := s.jobs()
	jobs, _, err := s.load(ctx, false, table.loadRange, table.after([]any{smallints(shards), dbTime{until}, minID, maxID}, from))
	return jobs, s.failed("load range", err)
}

// LoadIDs implements driver.Loader.
func (s *Source) LoadIDs(ctx context.Context, shards driver.ShardSet, ids []int64, from, until driver.DBTime, everywhere bool) ([]driver.Pending, error) {
	if shards == 0 || len(ids) == 0 {
		return nil, nil
	}
	table := s.jobs()
	jobs, _, err := s.load(ctx, false, table.loadIDs, table.after([]any{smallints(shards), dbTime{until}, ids}, from))
	if err == nil && everywhere && table.tree {
		// If a row moves between the two reads, neither may find it; then the sweep does.
		if ids = notAmong(ids, jobs); len(ids) > 0 && from > driver.DistantPast {
			var moved []driver.Pending
			moved, _, err = s.load(ctx, false, table.loadIDs, table.after([]any{smallints(shards), dbTime{min(from, until)}, ids}, driver.DistantPast))
			jobs = append(jobs, moved...)
		}
	}
	return jobs, s.failed("load ids", err)
}

// lastOf is the position after the last row read of a shard, and the number of rows.
type lastOf struct {
	driver.Cursor
	rows int
}

const (
	// claimRows is about how many jobs one claim takes.
	claimRows = 512
	// manyRows is how many jobs of one load are no trickle.
	manyRows = 64
)

func (s *Source) load(ctx context.Context, window bool, sql string, args []any) ([]driver.Pending, []lastOf, error) {
	var (
		jobs       []driver.Pending
		places     [driver.Shards]lastOf
		job        driver.Pending
		shard      int16
		fire, next dbTime
		key        pgtype.Int8
		waiting    queue
	)
	// Reading a window may take long if an old snapshot keeps processed rows. Rows that are read by
	// id may be due, so those statements keep the short limits.
	query := s.work.rows
	if window {
		query = func(ctx context.Context, sql string, args []any, read func(pgx.Rows) error) error {
			return s.work.rowsWith(ctx, s.slowSettings, sql, args, read)
		}
	}
	err := query(ctx, sql, args, func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&job.ID, &shard, &fire, &next, &job.Bytes, &key}, func() error {
			job.Shard, job.DueAt, job.FireAt = uint8(shard), next.DBTime, fire.DBTime
			jobs = append(jobs, job)
			if key.Valid {
				waiting.add(key.Int64, jobs)
			}
			place := &places[job.Shard]
			place.Cursor = driver.Cursor{Shard: job.Shard, AfterAt: fire.DBTime, AfterID: job.ID}
			place.rows++
			return nil
		})
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if err := s.postpone(ctx, jobs, waiting); err != nil {
		return nil, nil, err
	}
	// Have the connections for claiming them opened before they are due.
	if len(jobs) >= manyRows {
		s.work.pool.expect(min(2+len(jobs)/claimRows, s.cfg.MaxConns))
	}
	var last []lastOf
	for _, place := range places {
		if place.rows > 0 {
			last = append(last, place)
		}
	}
	return jobs, last, nil
}

// notAmong returns the ids that none of the jobs has.
func notAmong(ids []int64, jobs []driver.Pending) []int64 {
	found := make(map[int64]bool, len(jobs))
	for _, job := range jobs {
		found[job.ID] = true
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id int64) bool { return found[id] })
}
