package pgsource

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/job-publisher/reactor/reactor/driver"
)

// unsettledSQL adds up the payloads that readJournalSQL would read, without reading them: of a value
// that is stored out of line (TOAST), its size is in the row.
var unsettledSQL = `
		SELECT f.token, coalesce(sum(job.bytes) FILTER (WHERE job.bytes < $2), 0)::bigint,
		       coalesce(sum(job.bytes) FILTER (WHERE job.bytes >= $2), 0)::bigint
		  FROM reactor.in_flight f
		 CROSS JOIN LATERAL unnest(f.job_ids) AS entry (id)
		  LEFT JOIN LATERAL (
		       SELECT coalesce(octet_length(payload_bytes), octet_length(payload)) AS bytes FROM {jobs} AS job
		        WHERE job.id = entry.id{in $3 to $4} AND job.processed AND (job.claim = f.token OR f.reach IS NULL AND entry.id <> 0)
		       OFFSET 0 -- see readJournalSQL
		       ) AS job ON true
		 WHERE ` + ofLane("$1") + `
		 GROUP BY f.batch + 0, f.token
		 ORDER BY f.batch + 0`

// Unsettled implements driver.Journal.
func (s *Source) Unsettled(ctx context.Context, lease driver.Lease, largePayload int) ([]driver.Unsettled, error) {
	var list []driver.Unsettled
	era := s.timelines.now()
	err := s.leased(ctx, lease, func(tx pgx.Tx) error {
		era = min(era, eraOf(tx.Conn().PgConn()))
		// A row that has moved to another partition since is not counted, and is read all the same.
		table := s.jobs()
		due, err := table.dueIn(ctx, tx, lease.Lane, nil)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, table.unsettled, table.between([]any{lease.Lane, largePayload}, due.from, due.to)...)
		if err != nil {
			return err
		}
		var (
			token pgtype.UUID
			b     driver.Unsettled
		)
		_, err = pgx.ForEachRow(rows, []any{&token, &b.SmallBytes, &b.LargeBytes}, func() error {
			b.Token = token.Bytes
			list = append(list, b)
			return nil
		})
		return err
	})
	if err == nil {
		err = s.timelines.journalRead(lease.Lane, era)
	}
	return list, s.failed(fmt.Sprintf("look at the journal of lane %d", lease.Lane), err)
}
