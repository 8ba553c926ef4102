package producer

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/naming"
)

// DB is what the statements run on: get one with [Pgx] or [SQL], for each transaction. Its zero value
// is an error to use.
type DB struct {
	query func(ctx context.Context, sql string, args []any, each func(scan func(...any) error) error) error
	names naming.Names
	err   error // of an option
}

// Option is an option of [Pgx], [SQL] and [InsertMany].
type Option func(*DB)

// Schema is an option for a deployment whose own tables are in another schema than reactor: what
// `reactor migrate up` got as --schema. The table of jobs need not be named.
func Schema(name string) Option {
	return func(db *DB) { db.names, db.err = naming.New(name, "") }
}

func (db DB) with(options []Option) DB {
	for _, option := range options {
		option(&db)
	}
	return db
}

// PgxQuerier is a pgx.Tx, *pgx.Conn, *pgxpool.Pool, *pgxpool.Conn or *pgxpool.Tx.
type PgxQuerier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// SQLQuerier is a *sql.Tx, *sql.DB or *sql.Conn.
type SQLQuerier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Pgx uses a transaction, connection or pool of pgx. With a connection or a pool each call is a
// transaction of its own.
func Pgx(db PgxQuerier, options ...Option) DB {
	return DB{query: func(ctx context.Context, sql string, args []any, each func(func(...any) error) error) error {
		rows, err := db.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if err := each(rows.Scan); err != nil {
				return err
			}
		}
		return rows.Err()
	}}.with(options)
}

// SQL uses a transaction, connection or database of database/sql. With a connection or a database each
// call is a transaction of its own. Any driver for PostgreSQL will do; of the errors of drivers other
// than pgx's no [RuleError] is made.
func SQL(db SQLQuerier, options ...Option) DB {
	return DB{query: func(ctx context.Context, sql string, args []any, each func(func(...any) error) error) (err error) {
		rows, err := db.QueryContext(ctx, sql, args...)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, rows.Close()) }()
		for rows.Next() {
			if err := each(rows.Scan); err != nil {
				return err
			}
		}
		return rows.Err()
	}}.with(options)
}

var errNoDB = errors.New("there is no database to use: make the DB with producer.Pgx or producer.SQL")

// row reads the only row of a result. All functions that it is used with return one.
func (db DB) row(ctx context.Context, sql string, args []any, into ...any) error {
	return db.rows(ctx, sql, args, func(scan func(...any) error) error { return scan(into...) })
}

func (db DB) rows(ctx context.Context, sql string, args []any, each func(scan func(...any) error) error) error {
	switch {
	case db.query == nil:
		return errNoDB
	case db.err != nil:
		return db.err
	}
	return db.query(ctx, db.names.In(sql), args, each)
}
