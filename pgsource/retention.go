package pgsource

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Retention deletes the rows of jobs that have ended, and what is noted of them.
//
// A row has ended when it is processed, and its claim is neither in the journal nor waiting to be
// returned to the table: it was published, it failed, or somebody has marked it as processed. How long
// ago that was is counted from processed_at, or from fire_at where somebody has set processed alone.
//
// It deletes some rows in a transaction, waits for nobody's lock, and pauses for longer than it works.
// If we crash before a commit, those rows are still there; if after it, what was noted of them is gone
// as well, because that is the same transaction.
type Retention struct {
	// DatabaseURL is a connection string of a role that may delete jobs. See Config.DatabaseURL.
	DatabaseURL string
	// Names are those of the deployment.
	Names Names
	// Keep is how long a row is kept after its job has ended. A minute at least.
	Keep time.Duration
	// ByIndexOnly leaves out tables without the index of RetentionIndexSQL. By default such a table is
	// read once, some pages at a time.
	ByIndexOnly bool
	// Busy is the largest part of the time in which it works, the rest being pauses: 0.01 to 1. Defaults
	// to 0.2.
	Busy float64
	// Tell is called now and then with the number of rows that were deleted since. Optional.
	Tell func(rows int64)
	// Skip is called for a row that cannot be deleted, because of a trigger or a foreign key. Optional.
	Skip func(id int64, why error)

	createIndexes bool                          // of the tables that our role owns
	orphansOnly   bool                          // deletes no rows, whatever Keep says
	rowsOnly      bool                          // does not look for orphans
	lacksIndex    func(table string, why error) // is called for a table that was left out
}

// Purged is what Purge has deleted.
type Purged struct {
	Rows int64 // jobs
	// Records are those of reactor.failed_jobs whose row had gone before in another way: deleted by
	// somebody, truncated, dropped with its partition, or replaced by a row with its id.
	Records int64
}

// ErrPurging: another instance or command deletes rows at the moment.
var ErrPurging = errors.New("the rows of jobs that have ended are being deleted by another instance or command: try again later")

const (
	// purgeLock is the key of the advisory lock that lets one purge at a time, "purge" in ASCII.
	purgeLock = 0x7075726765
	// purgeRows is how many rows one transaction deletes. It takes about as long as a claim of as many.
	purgeRows = 1000
	// purgePages is how many pages of a table without index one transaction reads.
	purgePages = 32
	// shortestKeep is the smallest Retention.Keep. The journal is looked at, so no job is lost however
	// short it is; producers ask what has become of a job.
	shortestKeep = time.Minute
)

// ofPurge are the settings of its transactions. A crash of PostgreSQL may undo their commits without
// harm, so nobody waits for the disk. A table that is locked as a whole is left for later. The plans
// are made without statistics of the table, of which most rows may have been deleted since.
var ofPurge = append(ofMigration[:len(ofMigration):len(ofMigration)],
	setting{"statement_timeout", "30000"}, setting{"lock_timeout", "100"}, setting{"synchronous_commit", "off"},
	setting{"enable_seqscan", "off"}, setting{"enable_bitmapscan", "off"}, setting{"enable_sort", "off"},
	setting{"enable_indexscan", "on"}, setting{"enable_tidscan", "on"}, setting{"enable_nestloop", "on"}, setting{"jit", "off"},
	setting{"max_parallel_workers_per_gather", "0"})

func (r Retention) withDefaults() Retention {
	setDefault(&r.Busy, 0.2)
	if r.Tell == nil {
		r.Tell = func(int64) {}
	}
	if r.Skip == nil {
		r.Skip = func(int64, error) {}
	}
	if r.lacksIndex == nil {
		r.lacksIndex = func(string, error) {}
	}
	return r
}

func (r Retention) validate() error {
	switch {
	case r.Keep < shortestKeep && !r.orphansOnly:
		return &driver.ConfigError{Field: "Retain", Value: r.Keep, Problem: fmt.Sprintf("must be %v at least", shortestKeep)}
	case !(r.Busy >= 0.01 && r.Busy <= 1): // nor is NaN
		return &driver.ConfigError{Field: "Busy", Value: r.Busy, Problem: "must be 0.01 to 1"}
	}
	return nil
}

// Purge deletes what has ended longer than Keep ago, until nothing of it is left. It returns what it
// has deleted, also with an error. Only one runs at a time; it returns ErrPurging if another one does.
//
// The lock belongs to the session. Behind a pooler, where the session is not ours, each transaction
// takes it instead: then several instances may take turns.
func (r Retention) Purge(ctx context.Context) (done Purged, err error) {
	r = r.withDefaults()
	if err := r.validate(); err != nil {
		return done, err
	}
	err = withRights(ctx, r.DatabaseURL, r.Names, toPurge, false, func(conn *pgx.Conn) error {
		p := purge{Retention: r, conn: conn, ctx: ctx}
		if err := p.lock(); err != nil {
			return err
		}
		err := p.run()
		done = p.done
		if !p.pooled {
			// The session ends a moment after we have left it, and somebody may want to purge at once.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_, _ = conn.Exec(ctx, "SELECT pg_catalog.pg_advisory_unlock_all()")
		}
		return err
	})
	return done, err
}

// purge is one run of a Retention.
type purge struct {
	Retention
	ctx    context.Context
	conn   *pgx.Conn
	pooled bool
	jobs   string // the table, qualified
	done   Purged
	told   int64 // of done.Rows
}

// lock makes sure that nobody else purges, and finds the table.
func (p *purge) lock() error {
	return p.tx(func(tx pgx.Tx) error {
		var (
			pid   int
			home  *string
			alone bool
		)
		if err := tx.QueryRow(p.ctx, "SELECT pg_backend_pid(), (SELECT jobs_schema FROM reactor.deployment)").Scan(&pid, &home); err != nil {
			return err
		}
		if home == nil {
			return errNoSchema
		}
		p.jobs = qualified(txNames(tx), *home)
		if p.pooled = uint32(pid) != p.conn.PgConn().PID(); p.pooled {
			return nil
		}
		if err := tx.QueryRow(p.ctx, "SELECT pg_try_advisory_lock($1::bigint)", txNames(tx).Lock(purgeLock)).Scan(&alone); err != nil {
			return err
		}
		if !alone {
			return ErrPurging
		}
		return nil
	})
}

func (p *purge) tx(do func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(p.ctx, p.conn, pgx.TxOptions{BeginQuery: ofPurge.beginSQL() + "; SET LOCAL search_path = pg_catalog, pg_temp"}, renamed(namesOf(p.conn.PgConn()), func(tx pgx.Tx) error {
		if p.pooled && p.jobs != "" {
			var alone bool
			if err := tx.QueryRow(p.ctx, "SELECT pg_try_advisory_xact_lock($1::bigint)", txNames(tx).Lock(purgeLock)).Scan(&alone); err != nil {
				return err
			}
			if !alone {
				return ErrPurging
			}
		}
		return do(tx)
	}))
}

func (p *purge) run() error {
	defer func() {
		if rows := p.done.Rows - p.told; rows > 0 {
			p.Tell(rows)
		}
	}()
	if p.orphansOnly {
		return p.orphans()
	}
	tables, err := p.tables()
	if err != nil {
		return err
	}
	for _, t := range tables {
		err := p.purgeTable(t)
		switch sqlState(err) {
		case pgerrcode.UndefinedTable: // its partition was dropped meanwhile
			continue
		case pgerrcode.LockNotAvailable: // somebody changes it: another time
			continue
		}
		if err != nil {
			return err
		}
	}
	if p.rowsOnly {
		return nil
	}
	return p.orphans()
}

// Count returns what Purge would delete, or a few rows more: it does not look at the journal. Where there is no
// index it reads the whole table. It fails if the role may not delete.
func (r Retention) Count(ctx context.Context) (found Purged, err error) {
	r = r.withDefaults()
	if err := r.validate(); err != nil {
		return found, err
	}
	err = withRights(ctx, r.DatabaseURL, r.Names, toPurge, false, func(conn *pgx.Conn) error {
		a := &JobsAdmin{conn: conn, needs: toPurge}
		if err := a.find(ctx); err != nil {
			return err
		}
		if err := a.mayPurge(ctx); err != nil {
			return err
		}
		if err := a.tx(ctx, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, "SELECT count(*) FROM "+a.jobs+" WHERE processed AND "+endedAt+" < (SELECT clock_timestamp() - $1::interval)", interval(r.Keep)).Scan(&found.Rows)
		}); err != nil {
			return err
		}
		found.Records, err = a.countOrphans(ctx)
		return err
	})
	return found, err
}

// mayPurge fails if the role may not delete what a purge deletes, before somebody confirms it. The server checks
// the rights of statements that find no row, too.
func (a *JobsAdmin) mayPurge(ctx context.Context) error {
	return a.tx(ctx, func(tx pgx.Tx) error {
		// The tables that hold rows: a partition has rights of its own.
		rows, err := tx.Query(ctx, `
			WITH RECURSIVE tree (oid) AS (SELECT $1::text::regclass::oid UNION SELECT inhrelid FROM pg_inherits JOIN tree ON inhparent = tree.oid)
			SELECT format('%I.%I', nspname, relname) FROM tree JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind = 'r' ORDER BY c.oid`, a.jobs)
		if err != nil {
			return err
		}
		tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for _, table := range tables {
			if _, err := tx.Exec(ctx, "SELECT FROM ONLY "+table+" WHERE false FOR UPDATE"); err != nil {
				return err
			}
		}
		for _, table := range append(tables, "reactor.failed_jobs", "reactor.retries") {
			if _, err := tx.Exec(ctx, "DELETE FROM ONLY "+table+" WHERE false"); err != nil {
				return err
			}
		}
		return nil
	})
}

// purgeTable is one of the tables that hold rows of jobs: the table itself, or a partition or a child.
type purgeTable struct {
	name    string // qualified
	indexed bool
	owned   bool  // by our role
	pages   int64 // its size
}

// tables finds them, with the index for retention, by its definition.
func (p *purge) tables() (list []purgeTable, err error) {
	err = p.tx(func(tx pgx.Tx) error {
		rows, err := tx.Query(p.ctx, `
			WITH RECURSIVE tree (oid) AS (SELECT $1::text::regclass::oid UNION SELECT inhrelid FROM pg_inherits JOIN tree ON inhparent = tree.oid)
			SELECT format('%I.%I', nspname, relname), EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND `+isRetentionIndex+`),
			       pg_has_role(relowner, 'USAGE'), pg_relation_size(c.oid) / current_setting('block_size')::bigint
			  FROM tree JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = relnamespace
			 WHERE relkind = 'r' ORDER BY c.oid`, p.jobs)
		if err != nil {
			return err
		}
		var t purgeTable
		_, err = pgx.ForEachRow(rows, []any{&t.name, &t.indexed, &t.owned, &t.pages}, func() error {
			list = append(list, t)
			return nil
		})
		return err
	})
	return list, err
}

func (p *purge) purgeTable(t purgeTable) error {
	if !t.indexed && p.createIndexes {
		var err error
		if t.indexed, err = p.createIndex(t); err != nil || !t.indexed {
			p.lacksIndex(t.name, err)
		}
	}
	switch {
	case t.indexed:
		return p.byIndex(t)
	case p.ByIndexOnly:
		return nil
	}
	return p.byPages(t)
}

// endedAt is the first column of the index for retention.
const endedAt = "coalesce(processed_at, fire_at)"

// deleteSQL deletes rows of one table.
//
//   - old: the rows that have ended long ago, as this statement's snapshot shows them. {where} selects
//     some, in the order of the index or by pages.
//   - open: the claims that are in the journal or wait to be returned, in the same snapshot: a claim
//     and the end of one are single commits. So a row that is not among them has ended.
//     A failed job that blocks its ordering key is not over, as to delete its row is to let those behind
//     it go on.
//   - locked: those that nobody has locked, if they still have the same claim: a row that was made
//     unprocessed and was claimed again since the snapshot has another one.
//   - records, notes: what is noted of these rows goes with them. A record without a claim is about a
//     row that was not processed, which had the same id, and is written anew if it is still true.
//
// An instance that recovers a lane looks for the rows of its journal by id and claim, which this leaves
// alone; it does not wait for this, either.
var deleteSQL = `
WITH old AS MATERIALIZED (
    SELECT ctid AS place, id, claim, ` + endedAt + ` AS ended FROM ONLY {table}
     WHERE processed AND ` + endedAt + ` < (SELECT clock_timestamp() - $1::interval) AND {where}
), open AS MATERIALIZED (
    SELECT u.id, CASE WHEN entry.reach IS NOT NULL THEN entry.token END AS claim
      FROM reactor.lanes l CROSS JOIN LATERAL (SELECT f.token, f.reach, f.job_ids FROM reactor.in_flight f WHERE {ofLane}) AS entry
     CROSS JOIN LATERAL unnest(entry.job_ids) AS u (id)
    UNION ALL
    SELECT job_id, claim FROM reactor.retries WHERE NOT returned
), ended AS MATERIALIZED (
    SELECT place, id, claim FROM old
     WHERE NOT EXISTS (SELECT FROM open WHERE open.id = old.id AND (open.claim = old.claim OR open.claim IS NULL))
       AND NOT EXISTS (SELECT FROM reactor.failed_jobs f
                        WHERE f.job_id = old.id AND f.claim = old.claim AND f.state = 'failed' AND f.ordering IS NOT NULL AND (SELECT ordered_failure = 'block' FROM reactor.deployment))
), locked AS MATERIALIZED (
    SELECT job.ctid AS place, job.id, job.claim FROM ONLY {table} AS job JOIN ended ON job.ctid = ended.place
     WHERE job.id = ended.id AND job.processed AND job.claim IS NOT DISTINCT FROM ended.claim
       FOR UPDATE OF job SKIP LOCKED
), gone AS (
    DELETE FROM ONLY {table} WHERE ctid = ANY (ARRAY(SELECT place FROM locked)) RETURNING id, claim
), records AS (
    DELETE FROM reactor.failed_jobs f USING gone WHERE f.job_id = gone.id AND (f.claim = gone.claim OR f.claim IS NULL)
), notes AS (
    DELETE FROM reactor.retries r USING gone WHERE r.job_id = gone.id AND (r.claim = gone.claim OR r.claim IS NULL)
)
SELECT (SELECT count(*) FROM old), (SELECT count(*) FROM gone), last.ended, coalesce(last.id, 0)
  FROM (SELECT) AS one LEFT JOIN LATERAL (SELECT ` + micros("old.ended") + ` AS ended, old.id FROM old ORDER BY old.ended DESC, old.id DESC LIMIT 1) AS last ON true`

// inOrder are the next rows of the index. It begins where the last statement has ended: the entries of
// deleted rows stay in the index until the next VACUUM, and under an old snapshot for long.
const inOrder = "(" + endedAt + ", id) > ('epoch'::timestamptz + $2::interval, $3::bigint) ORDER BY " + endedAt + ", id LIMIT $4::bigint"

// inPages are the rows of some pages.
const inPages = "ctid >= $2::text::tid AND ctid < $3::text::tid"

// batch runs deleteSQL once and pauses.
func (p *purge) batch(t purgeTable, where string, args ...any) (read int64, last JobCursor, err error) {
	begun := time.Now()
	var gone int64
	var ended *driver.DBTime
	err = p.tx(func(tx pgx.Tx) error {
		args := append([]any{interval(p.Keep)}, args...)
		return verbatim(tx).QueryRow(p.ctx, purgeSQL(txNames(tx), t.name, where), args...).Scan(&read, &gone, &ended, &last.ID)
	})
	if err != nil {
		return 0, last, err
	}
	if ended != nil {
		last.FireAt = *ended
	}
	p.done.Rows += gone
	if rows := p.done.Rows - p.told; rows >= 100_000 {
		p.Tell(rows)
		p.told = p.done.Rows
	}
	return read, last, p.pause(begun)
}

// byIndex deletes in the order in which the jobs have ended.
func (p *purge) byIndex(t purgeTable) error {
	after, limit := JobCursor{FireAt: earliestTimestamp}, int64(purgeRows)
	for alone := int64(0); ; {
		read, last, err := p.batch(t, inOrder, pgtype.Interval{Microseconds: int64(after.FireAt), Valid: true}, after.ID, limit)
		switch {
		case err == nil:
		case !aboutJob(err) || waited(err):
			return err
		case limit > 1: // one by one, as far as this batch went
			limit, alone = 1, purgeRows
			continue
		default:
			if last, err = p.skip(t, after, err); err != nil {
				return err
			}
			read = 1
		}
		if read < limit {
			return nil
		}
		after = last
		if limit == 1 {
			if alone--; alone == 0 {
				limit = purgeRows
			}
		}
	}
}

// skip finds the row that could not be deleted, and reports it.
func (p *purge) skip(t purgeTable, after JobCursor, why error) (at JobCursor, err error) {
	err = p.tx(func(tx pgx.Tx) error {
		return verbatim(tx).QueryRow(p.ctx, "SELECT "+micros(endedAt)+", id FROM ONLY "+t.name+" WHERE processed AND ("+endedAt+", id) > ('epoch'::timestamptz + $1::interval, $2::bigint) ORDER BY "+endedAt+", id LIMIT 1",
			pgtype.Interval{Microseconds: int64(after.FireAt), Valid: true}, after.ID).Scan(&at.FireAt, &at.ID)
	})
	if err == nil {
		p.Skip(at.ID, why)
	}
	return at, err
}

// byPages reads a table without index once, from its first page to what is its last one now. A row that
// cannot be deleted keeps the others of its page, which are reported as one.
func (p *purge) byPages(t purgeTable) error {
	for first, pages := int64(0), int64(purgePages); first < t.pages; first += pages {
		place := func(page int64) string { return fmt.Sprintf("(%d,0)", page) }
		_, _, err := p.batch(t, inPages, place(first), place(first+pages))
		switch {
		case err == nil:
			pages = purgePages
		case !aboutJob(err) || waited(err):
			return err
		case pages > 1:
			first, pages = first-1, 1 // the same again, page by page
		default:
			p.Skip(0, err)
		}
	}
	return nil
}

// pause waits for longer than the work has taken.
func (p *purge) pause(begun time.Time) error {
	took := time.Since(begun)
	timer := time.NewTimer(time.Duration(float64(took) * (1 - p.Busy) / p.Busy))
	defer timer.Stop()
	select {
	case <-p.ctx.Done():
		return p.ctx.Err()
	case <-timer.C:
		return nil
	}
}
