package pgsource

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/job-publisher/reactor/reactor/driver"
)

// changeSQL changes the columns that a claim changes.
const changeSQL = "UPDATE {jobs} AS job SET processed = true, processed_at = greatest(fire_at, clock_timestamp()), claim = $2 WHERE "

// siftSQL changes one row as a claim would, and reads what a claim would read. A row that somebody
// has locked is left out.
var siftSQL = changeSQL + `ctid = (SELECT ctid FROM {jobs} WHERE id = $1 AND ` + pending + ` FOR UPDATE SKIP LOCKED)
RETURNING CASE WHEN processed AND claim = $2 THEN job.id ELSE ('a trigger takes the claim back, of job ' || job.id)::bigint END, length(topic), length(payload), ` + propertiesSQL

// siftLockSQL runs before siftSQL. If it locks the row and siftSQL does not change it, a trigger
// silently suppresses the change.
const siftLockSQL = "SELECT FROM {jobs} WHERE id = $1 AND " + pending + " FOR UPDATE SKIP LOCKED"

// siftName and siftLockName are the names of the prepared statements, which exist for one
// transaction.
const siftName, siftLockName = "reactor_sift", "reactor_sift_lock"

const (
	// firstSifted is how many rows the first round trip tries. Each following one tries twice as
	// many.
	firstSifted = 4
	// siftTimeout is the time after which no further round trip begins: each row may have to wait
	// for something, and the rows found by then are useful.
	siftTimeout = time.Second
)

// Sift implements driver.Journal. It tries each row in a subtransaction of its own, many in one
// round trip, and rolls everything back. Halving the batch instead takes a dozen statements for
// each bad row, and a commit for each half that is good; where one row in ten was bad, that reached
// 600 jobs a second.
//
// If we crash before the end, nothing has happened.
func (s *Source) Sift(ctx context.Context, ids []int64) ([]driver.BadJob, error) {
	if s.pooled || s.jobs().tree {
		return nil, nil // a pooler has no named statements; in a tree a ctid identifies no row
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.hot.timeout, errNoAnswer)
	defer cancel()
	conn, err := s.hot.acquire(ctx)
	if err != nil {
		return nil, s.failed("sift jobs", markTimeout(ctx, err))
	}
	defer conn.release() // closes the connection if it is still inside the transaction
	bad, err := sift(ctx, conn.PgConn(), s.jobs(), ids)
	return bad, s.failed("sift jobs", markTimeout(ctx, err))
}

func sift(ctx context.Context, conn *pgconn.PgConn, jobs *table, ids []int64) (bad []driver.BadJob, err error) {
	p := conn.StartPipeline(ctx)
	defer func() {
		if closeErr := p.Close(); err == nil {
			err = closeErr
		}
	}()
	plain := func(sql string) { p.SendQueryParams(sql, nil, nil, nil, nil) }
	plain("BEGIN ISOLATION LEVEL READ COMMITTED")
	plain(shortLimits.localSQL(false))
	plain("SET CONSTRAINTS ALL IMMEDIATE") // a claim checks deferred constraints at its commit
	p.SendPrepare(siftLockName, jobs.siftLock, []uint32{pgtype.Int8OID})
	p.SendPrepare(siftName, jobs.sift, []uint32{pgtype.Int8OID, pgtype.UUIDOID})
	plain("SAVEPOINT before")
	p.SendPipelineSync()
	if err := p.Flush(); err != nil {
		return nil, err
	}
	if _, err := untilSync(p); err != nil {
		return nil, err
	}
	begun := time.Now()
	for n := firstSifted; len(ids) > 0 && time.Since(begun) < siftTimeout; n *= 2 {
		n = min(n, len(ids))
		if bad, err = siftSome(p, ids[:n], bad); err != nil {
			return nil, err
		}
		ids = ids[n:]
	}
	plain("ROLLBACK")
	p.SendDeallocate(siftLockName)
	p.SendDeallocate(siftName)
	p.SendPipelineSync()
	if err := p.Flush(); err != nil {
		return nil, err
	}
	_, err = untilSync(p)
	return bad, err
}

// siftSome tries rows in one round trip, and appends the bad ones to bad.
func siftSome(p *pgconn.Pipeline, ids []int64, bad []driver.BadJob) ([]driver.BadJob, error) {
	token := driver.NewToken() // one that a row accepts (sql/schema.sql)
	formats := []int16{pgtype.BinaryFormatCode, pgtype.BinaryFormatCode}
	for _, id := range ids {
		key := binary.BigEndian.AppendUint64(nil, uint64(id))
		p.SendQueryPrepared(siftLockName, [][]byte{key}, formats[:1], nil)
		p.SendQueryPrepared(siftName, [][]byte{key, token[:]}, formats, nil)
		p.SendPipelineSync() // after an error the server skips what comes before the next
		p.SendQueryParams("ROLLBACK TO SAVEPOINT before", nil, nil, nil, nil)
		p.SendPipelineSync()
	}
	if err := p.Flush(); err != nil {
		return nil, err
	}
	for _, id := range ids {
		rows, err := untilSync(p)
		switch {
		case aboutJob(err):
			bad = append(bad, driver.BadJob{ID: id, Why: &driver.JobError{Reason: statementText(err), Waited: waited(err), Err: err}})
		case err != nil:
			return nil, err
		case rows == 1: // the row was locked and not changed
			bad = append(bad, driver.BadJob{ID: id, Why: &driver.JobError{Reason: errSuppressed.Error(), Err: errSuppressed}})
		}
		if _, err := untilSync(p); err != nil {
			return nil, err
		}
	}
	return bad, nil
}

// untilSync reads the results up to the next sync, and returns the number of rows that they report,
// and the first error.
func untilSync(p *pgconn.Pipeline) (rows int64, first error) {
	for {
		result, err := p.GetResults()
		var pgErr *pgconn.PgError
		if err != nil && !errors.As(err, &pgErr) {
			return 0, err // the connection is lost
		}
		switch result := result.(type) {
		case *pgconn.PipelineSync:
			return rows, first
		case *pgconn.ResultReader:
			var tag pgconn.CommandTag
			tag, err = result.Close()
			rows += tag.RowsAffected()
		case nil:
			if err == nil {
				return 0, fmt.Errorf("a pipeline has ended early: %w", first)
			}
			if pgErr.SeverityUnlocalized != "ERROR" {
				return 0, err // no sync follows
			}
		}
		if first == nil {
			first = err
		}
	}
}
