package pgsource

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	schema "github.com/job-publisher/reactor/sql"
)

// Repair creates what somebody has dropped or deleted from a schema whose versions are all applied: tables, columns,
// indexes, functions, the rows of the shards, and what announces new jobs. It does not bring back what they contained.
// What is there stays as it is, except that functions get the texts of this version. A deployment that has lost its name gets another
// one, unless something still goes by the old one: then Repair refuses. So it does where a column is missing that means nothing
// without what it contained, such as processed.
//
// It may run while instances do, and gives up like MigrateUp if somebody keeps a lock on the table of jobs. It is one
// transaction, so a crash leaves what was there before.
func Repair(ctx context.Context, databaseURL string, of ...Names) error {
	return withConnection(ctx, databaseURL, only(of), false, func(conn *pgx.Conn) error {
		err := patiently(ctx, conn, func(tx pgx.Tx) error {
			named, err := keepsName(ctx, tx)
			if err != nil {
				return err
			}
			if err := prepareSchema(ctx, tx, true); err != nil {
				return err
			}
			if err := homeThere(ctx, tx); err != nil {
				return err
			}
			if err := mendColumns(ctx, tx); err != nil {
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
			if !named {
				if err := execScript(ctx, tx, strings.Join(underAnotherName, ";")); err != nil {
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

// keepsName reports whether the deployment still knows its name. If not, it makes sure that nothing goes by it: an instance that
// runs would keep its MQTT client ids beside the new ones, and messages in flight would lose their sessions.
func keepsName(ctx context.Context, tx pgx.Tx) (bool, error) {
	has := func(table, where string) (found bool, err error) {
		err = tx.QueryRow(ctx, "SELECT pg_catalog.to_regclass('reactor."+table+"') IS NOT NULL").Scan(&found)
		if err == nil && found {
			err = tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM reactor."+table+" AS r WHERE "+where+")").Scan(&found)
		}
		return found, err
	}
	const home = "pg_catalog.to_jsonb(r) OPERATOR(pg_catalog.->>) 'jobs_schema'::pg_catalog.text"
	named, err := has("deployment", home+" IS NOT NULL") // where it is NULL, sql/schema.sql makes another name
	if err != nil || named {
		return named, err
	}
	alive, err := has("instances", "heartbeat_at OPERATOR(pg_catalog.>) (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) '1 minute'::pg_catalog.interval)")
	if err != nil {
		return false, err
	}
	inFlight, err := has("in_flight", "true")
	switch {
	case err != nil:
		return false, err
	case alive:
		return false, errors.New("reactor.deployment has lost the name that is in the MQTT client ids, and instances run under it: stop all instances cleanly, wait a minute, and run `reactor migrate up --repair` again, which makes another name")
	case inFlight:
		return false, errors.New("reactor.deployment has lost the name that is in the MQTT client ids, and messages are in flight under it: restore the row from a backup, with that name and in jobs_schema the schema of the table of jobs")
	}
	return false, nil
}

// homeThere refuses where the schema of a missing table is gone. A table that has moved is found by its triggers.
func homeThere(ctx context.Context, tx pgx.Tx) error {
	var there bool
	if err := tx.QueryRow(ctx, "SELECT pg_catalog.to_regclass('reactor.deployment') IS NOT NULL").Scan(&there); err != nil || !there {
		return err
	}
	var home string
	err := tx.QueryRow(ctx, `
		SELECT home FROM (SELECT pg_catalog.to_jsonb(d) OPERATOR(pg_catalog.->>) 'jobs_schema'::pg_catalog.text FROM reactor.deployment AS d) AS record (home)
		 WHERE home IS NOT NULL AND pg_catalog.to_regnamespace(pg_catalog.quote_ident(home)) IS NULL
		   AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgfoid OPERATOR(pg_catalog.=) pg_catalog.to_regproc('reactor.announce_jobs')::pg_catalog.oid)`).Scan(&home)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return err
	}
	return schemaGone(home)
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
