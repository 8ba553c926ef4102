package pgsource

import (
	"context"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	schema "github.com/job-publisher/reactor/sql"
)

// Repair creates what somebody has dropped or deleted from a schema whose versions are all applied: tables, columns,
// indexes, functions, the rows of the shards, and what announces new jobs. It does not bring back what they contained.
// What is there stays as it is, except that functions get the texts of this version.
//
// It may run while instances do, and gives up like MigrateUp if somebody keeps a lock on the table of jobs. It is one
// transaction, so a crash leaves what was there before.
func Repair(ctx context.Context, databaseURL string, of ...Names) error {
	return withConnection(ctx, databaseURL, only(of), false, func(conn *pgx.Conn) error {
		err := patiently(ctx, conn, func(tx pgx.Tx) error {
			if err := prepareSchema(ctx, tx); err != nil {
				return err
			}
			announce, err := announcement(ctx, tx)
			if err != nil {
				return err
			}
			for _, text := range []string{schema.SchemaUp, schema.GuardsUp, schema.OrderingUp, schema.FunctionsUp, schema.SchedulesUp, announce} {
				if err := execScript(ctx, tx, text); err != nil {
					return err
				}
			}
			return suitOldInstances(ctx, tx)
		})
		switch {
		case isForeignTable(err):
			return explainForeignTable(namesOf(conn.PgConn()), err)
		case sqlState(err) == pgerrcode.InsufficientPrivilege:
			return explained(err, "this role may not change the schema (%s): %s", statementText(err), runRepair)
		}
		return err
	})
}

// runRepair is what somebody does about a part of the schema that is missing.
const runRepair = "run `reactor migrate up --repair` as the owner of the database"

// announcement returns the text that creates what announces the jobs of this deployment: the publications, if it has
// some, or the triggers.
func announcement(ctx context.Context, tx pgx.Tx) (string, error) {
	var published bool
	err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname OPERATOR(pg_catalog.=) 'reactor_jobs_updated'::pg_catalog.name)").Scan(&published)
	if published {
		return schema.PublicationsUp, err
	}
	return schema.TriggersUp, err
}
