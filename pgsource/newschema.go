package pgsource

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/internal/naming"
)

// prepareSchema comes before the texts of a migration, in its transaction. It tells them where the table
// of a new deployment belongs, and refuses a schema of somebody else: its tables may have the names of
// ours, and CREATE TABLE IF NOT EXISTS would take them for ours. Whose the table of jobs is, the text
// itself looks (sql/schema.sql), because people run it as well.
//
// What is left of a deployment that was undone is the record of versions, schema_version.
//
// The schema reactor is not looked at: versions before 6 were created there by hand as well as by us,
// and have left what no rule describes.
func prepareSchema(ctx context.Context, tx pgx.Tx, ours bool) error {
	n := txNames(tx)
	if n.Home() != "" {
		if _, err := tx.Exec(ctx, "SELECT pg_catalog.set_config('reactor.jobs_schema', $1, true)", n.Home()); err != nil {
			return err
		}
	}
	if ours || n.Schema() == naming.DefaultSchema {
		return nil
	}
	var deployed bool
	var stranger *string
	if err := tx.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('reactor.deployment')::pg_catalog.oid
		                AND attname OPERATOR(pg_catalog.=) 'jobs_schema'::pg_catalog.name), pg_catalog.min(c.relname::pg_catalog.text) FILTER (WHERE NOT pg_catalog.starts_with(c.relname::pg_catalog.text, 'schema_version'::pg_catalog.text))
		  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
		 WHERE n.nspname OPERATOR(pg_catalog.=) 'reactor'::pg_catalog.name`).Scan(&deployed, &stranger); err != nil {
		return err
	}
	if stranger != nil && !deployed {
		return fmt.Errorf("the schema %s has tables of somebody else (%s): give reactor a schema of its own as pgsource.Config.Schema", n.Schema(), *stranger)
	}
	return nil
}

// isForeignTable reports whether sql/schema.sql refuses a table of somebody else that has the name of ours.
func isForeignTable(err error) bool { return sqlState(err) == pgerrcode.DuplicateTable }

// explainForeignTable names the remedies that are left. The text itself knows neither flags nor whether the table was
// named: where it was, no search path leads elsewhere.
func explainForeignTable(n naming.Names, err error) error {
	var pgErr *pgconn.PgError
	errors.As(err, &pgErr)
	if n.Home() != "" {
		return explained(err, "%s: name another table as pgsource.Config.JobsTable, one that is not there yet", pgErr.Message)
	}
	return explained(err, "%s: rename it, or name another table as pgsource.Config.JobsTable, such as reactor_jobs, or give reactor a schema of its own, first in the search path: ALTER ROLE … SET search_path = …", pgErr.Message)
}
