package check

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// ExpectedFromDB reads the expected jobs from the table jobs in the search path: id,
// topic, payload and fire_at of the rows that meet where, a condition in SQL
// ("topic LIKE 'demo/%'"; empty: all rows). The condition becomes part of the
// statement without quoting, so it must not come from an untrusted source.
func ExpectedFromDB(ctx context.Context, conn *pgx.Conn, where string) ([]Expected, error) {
	sql := "SELECT id, topic, coalesce(payload_bytes, convert_to(payload, 'UTF8'), ''), fire_at FROM jobs"
	if where != "" {
		sql += " WHERE " + where
	}
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("read expected jobs: %w", err)
	}
	expected, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Expected, error) {
		var e Expected
		err := row.Scan(&e.ID, &e.Topic, &e.Payload, &e.FireAt)
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("read expected jobs: %w", err)
	}
	return expected, nil
}
