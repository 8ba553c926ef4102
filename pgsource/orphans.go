package pgsource

import (
	"context"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// A record of reactor.failed_jobs is an orphan when no row has its id and its claim any more: the row
// was deleted, the table was truncated or restored, or the row's partition was dropped. Nobody
// inherits it, because whoever reads it compares the claim; but nobody would delete it, either.

// orphanAge is how old a record is at least. It only spares work: the statement is true for younger ones
// as well.
const orphanAge = "10 minutes"

// orphansSQL looks at the next records by id, and deletes the orphans among them. It looks for the rows
// one by one: a join would read all jobs. A record that was replaced since the snapshot has another
// time.
var orphansSQL = orphansPage + `, gone AS (
    DELETE FROM reactor.failed_jobs f USING orphans o WHERE f.job_id = o.job_id AND f.failed_at = o.failed_at RETURNING 1
)
SELECT (SELECT count(*) FROM page), (SELECT count(*) FROM gone), coalesce((SELECT max(job_id) FROM page), 0)`

// countOrphansSQL counts what orphansSQL would delete.
var countOrphansSQL = orphansPage + `
SELECT (SELECT count(*) FROM page), (SELECT count(*) FROM orphans), coalesce((SELECT max(job_id) FROM page), 0)`

const orphansPage = `
WITH page AS MATERIALIZED (
    SELECT job_id, failed_at, claim, row_version FROM reactor.failed_jobs WHERE job_id >= $1::bigint ORDER BY job_id LIMIT $2::bigint
), orphans AS MATERIALIZED (
    SELECT job_id, failed_at FROM page
     WHERE failed_at < clock_timestamp() - interval '` + orphanAge + `'
       AND (SELECT true FROM {jobs} AS job WHERE job.id = page.job_id
               AND CASE WHEN page.claim IS NOT NULL THEN job.claim = page.claim
                        ELSE page.row_version IS NULL OR NOT job.processed AND page.row_version = ` + rowVersion + ` END LIMIT 1) IS NULL
)`

// countOrphans counts all of them.
func (a *JobsAdmin) countOrphans(ctx context.Context) (records int64, err error) {
	for from := int64(math.MinInt64); ; {
		var read, found, last int64
		if err := a.tx(ctx, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, strings.ReplaceAll(countOrphansSQL, "{jobs}", a.jobs), from, purgeRows).Scan(&read, &found, &last)
		}); err != nil {
			return 0, err
		}
		records += found
		if read < purgeRows || last == math.MaxInt64 {
			return records, nil
		}
		from = last + 1
	}
}

// orphans deletes all of them.
func (p *purge) orphans() error {
	for from := int64(math.MinInt64); ; {
		begun := time.Now()
		var read, gone, last int64
		if err := p.tx(func(tx pgx.Tx) error {
			return tx.QueryRow(p.ctx, strings.ReplaceAll(orphansSQL, "{jobs}", p.jobs), from, purgeRows).Scan(&read, &gone, &last)
		}); err != nil {
			return err
		}
		p.done.Records += gone
		if read < purgeRows || last == math.MaxInt64 {
			return nil
		}
		from = last + 1
		if err := p.pause(begun); err != nil {
			return err
		}
	}
}
