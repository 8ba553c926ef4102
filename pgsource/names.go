package pgsource

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/internal/naming"
	"github.com/job-publisher/reactor/reactor/driver"
)

// Several deployments can use one database, each with a schema and a table of its own. All SQL of this
// package is written for the default names. It is rewritten (naming.Names.In) at the places where it is
// sent: the methods of database, the transactions of renamedTx, and execScript. A text that contains the
// name of a table that was read from the catalog goes through verbatim or execVerbatim instead: such a
// name belongs to users, and only what stands in double quotes is never rewritten.

// Names are the names of a deployment: give the same ones everywhere. The zero value has the default
// names.
type Names struct {
	// Schema is the schema of reactor's own tables and functions. Lower-case letters, digits and _, at
	// most 40. Defaults to reactor.
	Schema string
	// JobsTable is the table of jobs: TABLE or SCHEMA.TABLE, each as Schema. Without a schema it is
	// looked for, and created, as the default is: where the deployment says or, for a new one, in the
	// first schema of the search path. Defaults to jobs.
	JobsTable string
}

// check returns the names to rewrite texts with, or a *driver.ConfigError.
func (n Names) check() (naming.Names, error) {
	checked, err := naming.New(n.Schema, n.JobsTable)
	var bad *naming.Error
	if errors.As(err, &bad) {
		err = &driver.ConfigError{Field: bad.Field, Value: bad.Value, Problem: bad.Problem}
	}
	return checked, err
}

// only returns the names that were given to a function, or the default ones.
func only(of []Names) Names {
	if len(of) == 0 {
		return Names{}
	}
	return of[0]
}

// namesKey is the key of the deployment's names in the custom data of a connection of withConnection.
const namesKey = "reactor names"

func setNames(conn *pgconn.PgConn, n naming.Names) { conn.CustomData()[namesKey] = n }

// namesOf returns the names that the texts for a connection are rewritten with.
func namesOf(conn *pgconn.PgConn) naming.Names {
	n, _ := conn.CustomData()[namesKey].(naming.Names)
	return n
}

// qualified returns the name of the table of jobs in a schema, quoted for SQL.
func qualified(n naming.Names, schema string) string {
	return pgx.Identifier{schema, n.Table()}.Sanitize()
}

// renamedTx is a transaction whose texts are rewritten.
type renamedTx struct {
	pgx.Tx
	names naming.Names
}

func (tx renamedTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return tx.Tx.Exec(ctx, tx.names.In(sql), args...)
}

func (tx renamedTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return tx.Tx.Query(ctx, tx.names.In(sql), args...)
}

func (tx renamedTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return tx.Tx.QueryRow(ctx, tx.names.In(sql), args...)
}

// Begin makes a savepoint.
func (tx renamedTx) Begin(ctx context.Context) (pgx.Tx, error) {
	sub, err := tx.Tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return renamedTx{sub, tx.names}, nil
}

// renamed makes a function that runs in a transaction of pgx run in one whose texts are rewritten.
func renamed(n naming.Names, do func(pgx.Tx) error) func(pgx.Tx) error {
	return func(tx pgx.Tx) error { return do(renamedTx{tx, n}) }
}

// verbatim returns a transaction that sends texts as they are.
func verbatim(tx pgx.Tx) pgx.Tx {
	if r, ok := tx.(renamedTx); ok {
		return r.Tx
	}
	return tx
}

// txNames returns the names that a transaction rewrites its texts with.
func txNames(tx pgx.Tx) naming.Names {
	if r, ok := tx.(renamedTx); ok {
		return r.names
	}
	return naming.Names{}
}

// checkRecorded compares the names with those that the deployment records, if there is a deployment in
// the schema. Versions before 6 record no table; it is the default one.
//
// It only spares users a surprise, because each statement names schema and table by itself: a role that
// may not read the record, and a schema without a deployment, are reported by what needs them.
func checkRecorded(ctx context.Context, conn *pgx.Conn) error {
	n := namesOf(conn.PgConn())
	err := inMigrationTx(ctx, conn, func(tx pgx.Tx) error {
		var home, table *string
		if err := tx.QueryRow(ctx, "SELECT pg_catalog.to_jsonb(d) OPERATOR(pg_catalog.->>) 'jobs_schema'::pg_catalog.text, pg_catalog.to_jsonb(d) OPERATOR(pg_catalog.->>) 'jobs_table'::pg_catalog.text FROM reactor.deployment d").
			Scan(&home, &table); err != nil || home == nil {
			return err
		}
		if table == nil {
			table = new(string)
			*table = naming.DefaultTable
		}
		return compareRecorded(n, *home, *table)
	})
	switch sqlState(err) {
	case pgerrcode.UndefinedTable, pgerrcode.InvalidSchemaName, pgerrcode.InsufficientPrivilege:
		return nil
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return err
}

// compareRecorded refuses names that are not those of the deployment in the schema. A table of the
// default name that has moved to another schema is found by other means.
func compareRecorded(n naming.Names, home, table string) error {
	if n.Table() == table && (n.Home() == "" || n.Home() == home) {
		return nil
	}
	bad := &driver.ConfigError{
		Field:   "JobsTable",
		Problem: fmt.Sprintf("must be %s.%s, the table of the deployment in schema %s: give that one, or the schema of another deployment as pgsource.Config.Schema", home, table, n.Schema()),
	}
	switch {
	case n.Home() != "":
		bad.Value = n.Home() + "." + n.Table()
	case n.Table() != naming.DefaultTable:
		bad.Value = n.Table()
	}
	return bad
}
