package pgsource

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/naming"
)

// The index for retention has the processed rows in the order in which they have ended. Each claim adds
// an entry to it, so it exists only where retention is used, and is no part of the schema. It is
// recognized by its definition, whatever its name. Where the table has partitions, each has its own:
// an index of the whole table could not be created while jobs are inserted.

// isRetentionIndex is the condition for an index i.
const isRetentionIndex = `pg_get_indexdef(i.indexrelid, 1, true) = 'COALESCE(processed_at, fire_at)' AND pg_get_indexdef(i.indexrelid, 2, true) = 'id' AND pg_get_expr(i.indpred, i.indrelid) = 'processed'`

// RetentionIndexSQL is the statement that creates the index by which rows that have ended are found,
// for a table by its qualified name. It runs while jobs are inserted and published.
func RetentionIndexSQL(table string) string {
	return "CREATE INDEX CONCURRENTLY ON " + table + " (coalesce(processed_at, fire_at), id) WHERE processed"
}

// createIndex creates the index, and reports whether it is there. The session's lock keeps others from
// doing the same, so an invalid index is what is left of an attempt that has ended: it is dropped first.
// Behind a pooler the session is not ours, and nothing is created.
//
// CREATE INDEX CONCURRENTLY waits for transactions that have begun before, and holds up VACUUM of the
// table meanwhile: it gives up after indexPatience.
func (p *purge) createIndex(t purgeTable) (bool, error) {
	if p.pooled || !t.owned {
		return false, nil
	}
	var invalid []string
	if err := p.tx(func(tx pgx.Tx) error {
		rows, err := tx.Query(p.ctx, "SELECT format('%I.%I', nspname, relname) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = relnamespace WHERE i.indrelid = $1::text::regclass AND NOT i.indisvalid AND "+isRetentionIndex, t.name)
		if err != nil {
			return err
		}
		invalid, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	}); err != nil {
		return false, err
	}
	// Each statement by itself: none of them may run in a transaction.
	statements := []string{"SET search_path = pg_catalog, pg_temp", "SET statement_timeout = 0", "SET lock_timeout = '" + indexPatience + "'"}
	for _, name := range invalid {
		statements = append(statements, "DROP INDEX CONCURRENTLY "+name)
	}
	statements = append(statements, RetentionIndexSQL(t.name))
	for _, sql := range statements {
		if err := p.conn.PgConn().Exec(p.ctx, sql).Close(); err != nil {
			return false, fmt.Errorf("create the index for retention: %w", err)
		}
	}
	return true, nil
}

// indexPatience is how long the creation waits for one transaction of others.
const indexPatience = "60s"

// purgeSQL is deleteSQL for a table.
func purgeSQL(n naming.Names, table, where string) string {
	return strings.NewReplacer("{table}", table, "{where}", where, "{ofLane}", n.In(ofLane("l.lane"))).Replace(n.In(deleteSQL))
}
