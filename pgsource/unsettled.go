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
const unsettledSQL = `
		SELECT f.token, coalesce(sum(job.bytes) FILTER (WHERE job.bytes < $2), 0)::bigint,
		       coalesce(sum(job.bytes) FILTER (WHERE job.bytes >= $2), 0)::bigint
		  FROM reactor.in_flight f
		 CROSS JOIN LATERAL unnest(f.job_ids) AS entry (id)
		  LEFT JOIN LATERAL (
		       SELECT octet_length(payload) AS bytes FROM {jobs} AS job
		        WHERE job.id = entry.id AND job.processed AND (job.claim = f.token OR f.reach IS NULL AND entry.id <> 0)
		       OFFSET 0 -- see readJournalSQL
		       ) AS job ON true
		 WHERE f.lane = $1
		 GROUP BY f.batch, f.token
		 ORDER BY f.batch`

// Unsettled implements driver.Journal.
func (s *Source) Unsettled(ctx context.Context, lease driver.Lease, largePayload int) ([]driver.Unsettled, error) {
	var list []driver.Unsettled
	err := s.leased(ctx, lease, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, s.jobs().unsettled, lease.Lane, largePayload)
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
	return list, s.failed(fmt.Sprintf("look at the journal of lane %d", lease.Lane), err)
}
