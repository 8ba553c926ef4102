package pgsource

import (
	"context"
	"errors"
	"slices"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/reactor/driver"
)

// claimSQL claims jobs and journals them in one statement, one round trip and one commit.
//
//   - lease: locks the lane's row against a take-over, which updates it. Once a
//     take-over has committed, no claim with the old epoch can commit, so the journal
//     that the new owner reads is complete.
//   - due: checks every condition again under the row's lock, so that an outdated wheel
//     entry cannot publish a job that was cancelled, rescheduled or claimed. It locks in
//     order of id and skips locked rows: no deadlock, and no waiting for anybody. A job with an
//     ordering key is left alone while one before it has not ended (itsTurn).
//   - claimed: finds the locked rows by their place (ctid), which the lock keeps from
//     changing; a second search by id would be an eighth of the whole claim. A row version
//     that is younger than this statement's snapshot is locked and not found here; the
//     caller looks at it again. The row is signed with the claim's token, so that a
//     recovery can tell it from another row that got its id.
//   - carried: keeps the count of attempts of these very rows. Not of rows that are due
//     and were left alone: their count would be lost.
//   - revived: removes the failures of jobs that are tried again.
//   - journalled: records the QoS, which is that of all jobs of the batch: those of a lower one are
//     left alone, and taken by the next claim. It lists the jobs in launch order (see sentApart); job i has the slot i places after the
//     first.
//   - lowered: keeps the lane's journal from starting behind this batch, where numbers have
//     gone back (journalstart.go). It deletes nothing otherwise.
//
// If we crash before the commit, nothing happened: the jobs are unprocessed, and the next sweep of
// any instance finds them. If we crash after it, the journal names the batch, and the next owner of
// the lane recovers it.
var claimSQL = `
WITH lease AS MATERIALIZED (
    SELECT FROM reactor.lanes WHERE lane = $1 AND owner = $2 AND epoch = $3 FOR SHARE
), due AS MATERIALIZED (
    SELECT tableoid AS part, ctid AS place, id, fire_at AS at, claim AS before, ` + sizeSQL + ` AS bytes, least(coalesce(qos, $8), $8) AS lower
      FROM {jobs}
     WHERE id = ANY ($4::bigint[]) AND ` + pending + `{in $12 to $13}
       AND fire_at <= (SELECT clock_timestamp() + $5::interval)
       AND shard = ANY (coalesce($6::smallint[], ARRAY(SELECT shard FROM reactor.shards WHERE owner = $2)))
       AND ` + itsTurn("$4", "$12", "$13") + ` AND EXISTS (SELECT FROM lease)
     ORDER BY id
       FOR UPDATE SKIP LOCKED
), sums AS MATERIALIZED (
    SELECT sum(bytes) AS bytes, min(lower) AS lowest, max(lower) AS highest FROM due
), claimed AS ({claimed}
), carried AS (
    UPDATE reactor.retries r SET claim = $7
     WHERE job_id = ANY (CASE WHEN ` + anyRetries + ` THEN ARRAY(SELECT id FROM claimed) ELSE '{}' END)
       AND (r.claim IS NULL OR (job_id, r.claim) IN (SELECT id, before FROM due WHERE before IS NOT NULL))
), revived AS (
    DELETE FROM reactor.failed_jobs
     WHERE job_id = ANY (CASE WHEN ` + anyFailed + ` THEN ARRAY(SELECT id FROM claimed) ELSE '{}' END)
), journalled AS (
    INSERT INTO reactor.in_flight (lane, epoch, token, qos, first_slot, reach, job_ids, due_by, ordered_ids, ordered_keys)
    SELECT $1, $3, $7, (SELECT highest FROM sums), $9, $10, array_agg(id ORDER BY fire_at, apart, id), max(fire_at),
           array_agg(id) FILTER (WHERE ordering IS NOT NULL), array_agg(ordering) FILTER (WHERE ordering IS NOT NULL)
      FROM claimed HAVING count(*) > 0
    RETURNING batch, qos, ordered_ids IS NOT NULL AS ordered
), lowered AS (
    DELETE FROM reactor.journal_starts WHERE lane = $1 AND batch > (SELECT batch FROM journalled)
)
SELECT batch, qos, id, topic, payload, payload_bytes, fire_at, expires_at, properties, (SELECT lowest < highest FROM sums), ordered, clock_timestamp()
  FROM journalled, claimed ORDER BY fire_at, apart, id`

// claimedID returns the id of a row that was marked and signed. A trigger of the application may
// undo the mark or the signature to protect its columns: then the row would be published again and
// again, or lost in a crash. In that case the cast fails with this text, and the row is
// quarantined.
const claimedID = `CASE WHEN processed AND claim = $7 THEN job.id ELSE ('a trigger takes the claim back, of job ' || job.id)::bigint END`

// sentApart is true for jobs that are not sent before their time (reactor/internal/handoff/stage.go):
// of those that are due at one instant they come last. The progress of a batch is counted from its
// front, so one of them would keep the journal from knowing the others in time.
const sentApart = `(expires_at IS NOT NULL OR coalesce(octet_length(payload_bytes), octet_length(payload)) > 65536)`

// sizeSQL is how many bytes a job takes up in memory, nearly: those of all that may be large. Most jobs
// have nothing but a topic and a payload, and it should cost them nothing to ask.
const sizeSQL = `octet_length(topic) + octet_length(payload)
       + CASE WHEN payload_bytes IS NULL AND correlation_data IS NULL AND response_topic IS NULL AND headers IS NULL THEN 0
              ELSE coalesce(octet_length(payload_bytes), 0) + coalesce(octet_length(correlation_data), 0)
                 + coalesce(octet_length(response_topic), 0) + coalesce(pg_column_size(headers), 0) END`

// claimedColumns are what is published of a row.
var claimedColumns = "topic, payload, payload_bytes, fire_at, expires_at, " + propertiesSQL + " AS properties"

// claimByPlace identifies the locked rows by their ctid alone, because only this one table is
// searched. The bytes are counted under the lock, because a payload may have grown since it was
// read. Rows beyond the bound are left alone, except the first row, whatever its size.
var claimByPlace = `
    UPDATE {jobs} AS job SET processed = true, processed_at = greatest(fire_at, clock_timestamp()), claim = $7
     WHERE ctid = ANY (CASE
               WHEN (SELECT bytes <= $11 AND lowest = highest FROM sums) THEN ARRAY(SELECT place FROM due)
               ELSE ARRAY(SELECT place FROM (SELECT place, sum(bytes) OVER (ORDER BY id) - bytes AS ahead FROM due
                                              WHERE lower = (SELECT highest FROM sums)) AS running WHERE ahead < $11)
           END)
    RETURNING ` + claimedID + ` AS id, ` + claimedColumns + `, ` + sentApart + ` AS apart, ` + orderingSQL + ` AS ordering`

// claimByTableAndPlace is for a table with partitions or inheritance children. There two rows may
// have the same id; each is taken by a claim of its own, so that id and token together identify one
// row. The time of each row, and that of all, tell in which partitions to look (partitioned.go).
var claimByTableAndPlace = `
    UPDATE {jobs} AS job SET processed = true, processed_at = greatest(fire_at, clock_timestamp()), claim = $7
      FROM (SELECT part, place, at, sum(bytes) OVER (ORDER BY id) - bytes AS ahead,
                   row_number() OVER (PARTITION BY id ORDER BY part, place) AS nth FROM due
             WHERE lower = (SELECT highest FROM sums)) AS running
     WHERE job.ctid = running.place AND job.tableoid = running.part AND fire_at = at{in $12 to $13} AND ahead < $11 AND nth = 1
    RETURNING ` + claimedID + ` AS id, ` + claimedColumns + `, ` + sentApart + ` AS apart, ` + orderingSQL + ` AS ordering`

// Claim implements driver.Journal.
func (s *Source) Claim(ctx context.Context, req driver.ClaimRequest) (driver.Batch, error) {
	var era int64 // of the connection that was used
	claims := s.hot.accepting(func(conn *pgconn.PgConn) error {
		if era = eraOf(conn); !s.timelines.mayClaim(req.Lease.Lane, era) {
			return errFailedOver
		}
		return nil
	})
	slices.Sort(req.IDs)
	batch := driver.Batch{Token: req.Token, FirstSlot: req.FirstSlot, Reach: req.Reach, QoS: req.QoS, Jobs: make([]driver.Job, 0, len(req.IDs))}
	read := func(rows pgx.Rows) error { return readClaim(rows, &batch) }
	var err error
	jobs := s.jobs()
	args := jobs.claimArgs(req)
	if req.Briefly {
		err = claims.rowsWith(ctx, shortLimits, jobs.claim, args, read)
	}
	// If not a row's trigger took too long, but a large payload or the server, fewer jobs would not
	// help. The server has reported that it gave up the first attempt before its commit, so the
	// token can be used for another.
	if !req.Briefly || waited(err) && !aboutJob(err) {
		batch.Jobs = batch.Jobs[:0]
		err = claims.rows(ctx, jobs.claim, args, read)
	}
	for range movedAttempts {
		if sqlState(err) != pgerrcode.SerializationFailure {
			break
		}
		batch.Jobs = batch.Jobs[:0]
		err = claims.rows(ctx, jobs.claim, args, read)
	}
	if err != nil {
		return driver.Batch{}, claimOutcome(s.failed("claim batch", err))
	}
	if len(batch.Jobs) < len(req.IDs) {
		batch.Missed, batch.Keys = s.endOutdated(ctx, req)
	}
	if len(batch.Jobs) > 0 {
		if era != s.timelines.now() {
			// The answer came from a server that was replaced meanwhile. What the present one knows of it, its journal tells.
			return driver.Batch{}, &driver.UnknownError{Err: errFailedOver}
		}
		s.starts.claimed(req.Lease.Lane, batch.ID, era)
		return batch, nil
	}
	// No job was left to take, or the lane is not ours any more, or a trigger suppresses the claim.
	if batch.At, err = s.checkLease(ctx, req.Lease); err == nil {
		err = s.findSuppressed(ctx, req)
	}
	return batch, err
}

// findSuppressed looks for a row that can be claimed by its columns, but whose update a trigger
// silently suppresses (BEFORE UPDATE, RETURN NULL): nothing would ever be reported about its job. A
// row that the claim has not found may also have been locked a moment ago, or be too young for the
// claim's snapshot. So the row is locked first, and changed by a statement that begins after that.
// The change is never committed: whenever we crash, nothing has happened.
func (s *Source) findSuppressed(ctx context.Context, req driver.ClaimRequest) error {
	jobs := s.jobs()
	args := jobs.between([]any{req.IDs, interval(req.Within), smallints(req.Static), req.Lease.Owner}, req.From, req.To)
	var waiting bool
	if err := s.hot.row(ctx, jobs.waiting, args, &waiting); err != nil || !waiting {
		return s.failed("look for jobs that were not claimed", err)
	}
	var id int64
	err := s.hot.tx(ctx, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, jobs.lockOne, args...).Scan(&id); err != nil {
			return err // locked by somebody: it is claimed when the lock is released
		}
		tag, err := tx.Exec(ctx, jobs.touch, jobs.between([]any{id, uuid(req.Token)}, req.From, req.To)...)
		switch {
		case err != nil:
			return err
		case tag.RowsAffected() == 0:
			return errSuppressed
		}
		return pgx.ErrNoRows // to roll the change back
	})
	switch {
	case errors.Is(err, errSuppressed):
		return &driver.JobError{Reason: err.Error(), Err: err}
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	}
	if aboutJob(err) {
		return &driver.JobError{Reason: statementText(err), Err: err}
	}
	return s.failed("look for jobs that were not claimed", err) // certainly nothing was claimed
}

var errSuppressed = errors.New("a trigger on the table silently keeps its row from being changed")

var (
	unclaimedSQL = `
  FROM {jobs} WHERE id = ANY ($1::bigint[]) AND ` + pending + `{in $5 to $6} AND fire_at <= clock_timestamp() + $2::interval
   AND shard = ANY (coalesce($3::smallint[], ARRAY(SELECT shard FROM reactor.shards WHERE owner = $4))) AND ` + itsTurn("$1", "$5", "$6")
	waitingSQL = "SELECT EXISTS (SELECT" + unclaimedSQL + ")"
	lockOneSQL = "SELECT id" + unclaimedSQL + " ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED"
	// It changes every column that a claim changes, because a trigger may react to one of them
	// only.
	touchSQL = changeSQL + "id = $1 AND " + pending + "{in $3 to $4}"
)

// shortLimits are the limits of a claim that must answer soon: long enough for what a trigger does,
// and short for what it waits for.
var shortLimits = settings{{"lock_timeout", "20ms"}, {"statement_timeout", "1000ms"}}

// movedAttempts is how often a claim is repeated at once because somebody has moved one of its rows
// to another partition since the statement began: PostgreSQL then refuses the whole statement.
const movedAttempts = 3

func (t *table) claimArgs(req driver.ClaimRequest) []any {
	return t.between([]any{
		req.Lease.Lane, req.Lease.Owner, req.Lease.Epoch, req.IDs, interval(req.Within), smallints(req.Static),
		uuid(req.Token), req.QoS, int32(req.FirstSlot), int32(req.Reach), int64(req.Bytes),
	}, req.From, req.To)
}

// checkLease returns the database's time, and ErrLeaseLost if the lane is not ours any more.
func (s *Source) checkLease(ctx context.Context, lease driver.Lease) (driver.DBTime, error) {
	var (
		now  dbTime
		held bool
	)
	err := s.hot.row(ctx, "SELECT clock_timestamp(), EXISTS (SELECT FROM reactor.lanes WHERE lane = $1 AND owner = $2 AND epoch = $3)",
		[]any{lease.Lane, lease.Owner, lease.Epoch}, &now, &held)
	if err == nil && !held {
		return now.DBTime, driver.ErrLeaseLost
	}
	return now.DBTime, s.failed("check lease", err)
}

// ResolveClaim implements driver.Journal.
//
// Raising the epoch by one, and no further, makes a repetition harmless, and tells our own raise
// from a take-over (driver.Lease).
//
// The backend that runs the claim may still be working. Raising the epoch waits for that claim's
// lock on the lane, and makes a later commit of it impossible; only after that is the journal's
// answer final. If we crash before the commit, the lane is recovered with its old epoch; if after
// it, with the new one: the batches are the same.
func (s *Source) ResolveClaim(ctx context.Context, req driver.ClaimRequest) (driver.Batch, driver.Lease, bool, error) {
	batch, lease := driver.Batch{}, req.Lease
	ok := false
	err := s.hot.tx(ctx, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `
			UPDATE reactor.lanes SET epoch = $4 WHERE lane = $1 AND owner = $2 AND epoch IN ($3, $4) RETURNING epoch`,
			lease.Lane, lease.Owner, lease.Epoch, lease.Epoch+1).Scan(&lease.Epoch)
		if err == pgx.ErrNoRows {
			return driver.ErrLeaseLost
		}
		if err != nil {
			return err
		}
		batches, err := s.readJournal(ctx, tx, lease.Lane, &req.Token)
		if err == nil && len(batches) == 1 {
			batch, ok = batches[0], true
		}
		return err
	})
	if err != nil {
		return driver.Batch{}, req.Lease, false, s.failed("resolve claim", err)
	}
	return batch, lease, ok, nil
}
