package pgsource

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/job-publisher/reactor/reactor/driver"
)

// leaseSQL keeps the lane from being taken over until the transaction ends. We may have raised the
// epoch ourselves (ResolveClaim).
const leaseSQL = "SELECT EXISTS (SELECT FROM reactor.lanes WHERE lane = $1 AND owner = $2 AND epoch >= $3 FOR SHARE)"

// reopenSQL makes void what was recorded of the lane's QoS 2 batches, and what a connection that we
// have given up is still about to record.
//
// If we crash before the commit, the broker's session lacks the mark that the lane's row names, and
// the next owner finds that out as we did. If we crash after it, no session has the new mark yet,
// and nothing was sent: the next owner starts another round.
var reopenSQL = "UPDATE reactor.in_flight f SET settled = 0, round = $2 WHERE " + ofLane("$1") + " AND qos = 2"

// Reopen implements driver.Journal.
func (s *Source) Reopen(ctx context.Context, lease driver.Lease, round int64, mark string) error {
	err := s.leased(ctx, lease, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, reopenSQL, lease.Lane, round)
		if err == nil {
			_, err = tx.Exec(ctx, markSQL, lease.Lane, mark)
		}
		return err
	})
	return s.failed(fmt.Sprintf("reopen lane %d", lease.Lane), err)
}

const markSQL = "UPDATE reactor.lanes SET mark = nullif($2, '') WHERE lane = $1"

// Mark implements driver.Journal. The session carries the old mark and the new one: whichever of
// the two the row names after a crash, the next owner recognizes the session by it.
func (s *Source) Mark(ctx context.Context, lease driver.Lease, mark string) error {
	err := s.leased(ctx, lease, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, markSQL, lease.Lane, mark)
		return err
	})
	return s.failed(fmt.Sprintf("mark lane %d", lease.Lane), err)
}

// leased runs a transaction that commits only if the lane is still ours. In another database it is not, whatever a
// copy of our rows says there: the membership is about to end. To recover what the copy's journal lists would publish again what
// was settled since the copy was made.
func (s *Source) leased(ctx context.Context, lease driver.Lease, do func(pgx.Tx) error) error {
	ours := s.work.accepting(func(*pgconn.PgConn) error {
		if s.timelines.elsewhere() {
			return driver.ErrLeaseLost
		}
		return nil
	})
	return ours.tx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, s.slowSettings.localSQL(false)); err != nil {
			return err
		}
		var held bool
		err := tx.QueryRow(ctx, leaseSQL, lease.Lane, lease.Owner, lease.Epoch).Scan(&held)
		switch {
		case err != nil:
			return err
		case !held:
			return driver.ErrLeaseLost
		}
		return do(tx)
	})
}

var (
	cutSettledSQL = `
		UPDATE reactor.in_flight f
		   SET job_ids = job_ids[settled + 1:], first_slot = (first_slot - 1 + settled) % $2 + 1, settled = 0
		 WHERE ` + ofLane("$1") + ` AND settled > 0 AND qos < 2`
	dropEmptySQL = "DELETE FROM reactor.in_flight f WHERE " + ofLane("$1") + " AND job_ids = '{}'"
)

// Recover implements driver.Journal. A crash before the commit leaves the journal as it was; a
// crash after it leaves the same batches without their settled parts, for the next recovery.
func (s *Source) Recover(ctx context.Context, lease driver.Lease) ([]driver.Batch, error) {
	var batches []driver.Batch
	era := s.timelines.now()
	err := s.leased(ctx, lease, func(tx pgx.Tx) error {
		era = min(era, eraOf(tx.Conn().PgConn()))
		// Removing the settled part makes positions in the row equal positions in Batch.Jobs.
		if _, err := tx.Exec(ctx, cutSettledSQL, lease.Lane, driver.LaneSlots); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, dropEmptySQL, lease.Lane); err != nil {
			return err
		}
		var err error
		batches, err = s.readJournal(ctx, tx, lease.Lane, nil)
		return err
	})
	if err == nil {
		err = s.timelines.journalRead(lease.Lane, era)
	}
	return batches, s.failed(fmt.Sprintf("recover lane %d", lease.Lane), err)
}

// readJournalSQL reads the rows of the journal's jobs: those that the claim has signed, and that
// nobody has made unprocessed since. Another row that got the id is not the row that was claimed:
// publishing it would be early, or a repetition, and it is claimed at its own time. Versions before
// the signature (reach is NULL) identified rows by id, and an id of 0 stood for a job that failed.
//
// The broker may have a message that is not due yet. It is released at its time, or, where its row is
// gone, when the last job of its batch is due.
var readJournalSQL = `
		SELECT f.batch, f.token, f.round, f.settled, f.qos, f.first_slot, coalesce(f.reach, $3), coalesce(entry.id, 0),
		       coalesce(job.topic, ''), coalesce(job.payload, ''), job.payload_bytes, coalesce(job.fire_at, f.due_by), job.expires_at, job.properties,
		       f.ordered_ids IS NOT NULL
		  FROM reactor.in_flight f
		 CROSS JOIN LATERAL unnest(f.job_ids) WITH ORDINALITY AS entry (id, place)
		  LEFT JOIN LATERAL (
		       SELECT ` + claimedColumns + ` FROM {jobs} AS job
		        WHERE job.id = entry.id{in $4 to $5} AND job.processed AND (job.claim = f.token OR f.reach IS NULL AND entry.id <> 0)
		       OFFSET 0 -- one by one: PostgreSQL 18 would read the whole table in the order of ids
		       ) AS job ON true
		 WHERE ` + ofLane("$1") + ` AND ($2::uuid IS NULL OR f.token = $2)
		 ORDER BY f.batch + 0, entry.place`

// readJournal returns the lane's batches, or only the one with the token. A job whose row does not
// exist any more keeps its place, without a topic.
func (s *Source) readJournal(ctx context.Context, tx pgx.Tx, lane int32, token *[16]byte) ([]driver.Batch, error) {
	table := s.jobs()
	due, err := table.dueIn(ctx, tx, lane, token)
	if err != nil {
		return nil, err
	}
	batches, missing, err := readJobs(ctx, tx, table.journal, table.between([]any{lane, token, driver.LaneSlots}, due.from, due.to))
	if err == nil && missing && table.tree {
		batches, _, err = readJobs(ctx, tx, table.journal, table.between([]any{lane, token, driver.LaneSlots}, driver.DistantPast, endOfTime))
	}
	return batches, err
}

// dueIn returns between which times the jobs of a lane's batches are due, most likely.
func (t *table) dueIn(ctx context.Context, tx pgx.Tx, lane int32, token *[16]byte) (span, error) {
	if !t.tree {
		return anyDueTime, nil
	}
	var first, last dbTime
	err := tx.QueryRow(ctx, dueSQL, lane, token).Scan(&first, &last)
	return span{first.Add(-mostSpan), last.DBTime}, err
}

// dueSQL finds out when the last jobs of the batches are due: the earliest of these times, and the
// latest.
var dueSQL = `
SELECT coalesce(min(coalesce(due_by, '-infinity')), '-infinity'), coalesce(max(coalesce(due_by, 'infinity')), '-infinity')
  FROM reactor.in_flight AS f WHERE ` + ofLane("$1") + ` AND ($2::uuid IS NULL OR f.token = $2)`

// mostSpan is how much earlier than the last job of its batch a job is looked for first. On time, the
// jobs of a batch are due within a claim's lead; in a backlog they may be further apart.
const mostSpan = 24 * time.Hour

// readJobs also reports whether the row of a job was not found.
func readJobs(ctx context.Context, tx pgx.Tx, sql string, args []any) (batches []driver.Batch, missing bool, err error) {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, false, err
	}
	var (
		id, round      int64
		signed         pgtype.UUID
		settled, reach int
		qos            int16
		firstSlot      int32
		job            driver.Job
		fire           dbTime
		expires        nullTime
		binary, extra  []byte
		ordered        bool
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &signed, &round, &settled, &qos, &firstSlot, &reach, &job.ID, &job.Topic, &job.Payload, &binary, &fire, &expires, &extra, &ordered}, func() (err error) {
		if n := len(batches); n == 0 || batches[n-1].ID != id {
			batches = append(batches, driver.Batch{
				ID: id, Token: signed.Bytes, Round: round, Concluded: settled, QoS: byte(qos), FirstSlot: driver.Slot(firstSlot), Reach: reach, Ordered: ordered,
			})
		}
		job.FireAt, job.ExpiresAt, job.Expires = fire.DBTime, expires.DBTime, expires.valid
		if binary != nil {
			job.Payload = binary
		}
		if job.Properties, job.LeftOut = nil, false; extra != nil {
			if err := readProperties(extra, &job); err != nil {
				return err
			}
		}
		batch := &batches[len(batches)-1]
		batch.Jobs = append(batch.Jobs, job)
		missing = missing || job.Topic == "" && job.ID != 0
		job.Payload, binary = nil, nil // the next row gets memory of its own
		return nil
	})
	for _, b := range batches {
		placeGone(b.Jobs)
	}
	return batches, missing, err
}

// placeGone makes the times of jobs without a row as early as they can be: the jobs of a batch are in
// order, so none was due later than the one behind it.
func placeGone(jobs []driver.Job) {
	for i := len(jobs) - 2; i >= 0; i-- {
		if jobs[i].Topic == "" {
			jobs[i].FireAt = min(jobs[i].FireAt, jobs[i+1].FireAt)
		}
	}
}
