package bench

import (
	"context"
	"fmt"
	"math"
)

// What is in the table before the load: rows that are due next month, and rows that have been
// processed. Reactor has nothing to do for either, and how many there are should not matter.

// noneStored stands for a table without such rows: also ids of 0 and below are the load's.
const noneStored = math.MinInt64 + 1 // the smallest that PostgreSQL reads as a bigint

// storeRows is how many rows one statement inserts.
const storeRows = 500_000

const storeSQL = `
INSERT INTO jobs (topic, payload, fire_at, processed, processed_at)
SELECT $1 || n % $2::int, rpad('job ' || n || ' ', $3::int, '.'),
       now() + CASE WHEN $4 THEN '-1 day'::interval ELSE '30 days' END + n * interval '0.01 s', $4, CASE WHEN $4 THEN now() END
  FROM generate_series($5::int, $6::int) AS n`

// store inserts the stored rows, and keeps the largest id: larger ones are the load's.
func (d *deployment) store(ctx context.Context) error {
	load := d.cfg.Load
	for _, part := range []struct {
		rows      int
		processed bool
	}{{load.Processed, true}, {load.Pending, false}} {
		for first := 1; first <= part.rows; first += storeRows {
			last := min(first+storeRows-1, part.rows)
			d.progress("store", first-1, part.rows)
			if _, err := d.conn.Exec(ctx, storeSQL, topicPrefix+"stored/", load.Topics, load.PayloadBytes, part.processed, first, last); err != nil {
				return fmt.Errorf("store rows: %w", err)
			}
		}
	}
	if _, err := d.conn.Exec(ctx, "VACUUM (ANALYZE) jobs"); err != nil {
		return fmt.Errorf("store rows: %w", err)
	}
	return d.conn.QueryRow(ctx, "SELECT max(id) FROM jobs").Scan(&d.stored)
}
