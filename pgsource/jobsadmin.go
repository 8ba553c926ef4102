package pgsource

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/job-publisher/reactor/reactor/driver"
)

// JobsAdmin looks at jobs and changes them, for an operator: List, Show, Select, Act. It works beside
// running instances, and holds a lock only within one call.
//
// Its role needs what a producer needs that uses the functions of sql/functions.sql: USAGE on schema
// reactor, SELECT on its tables, and on the table of jobs SELECT, and for changes UPDATE and DELETE.
type JobsAdmin struct {
	conn *pgx.Conn
	jobs string // the table, qualified
}

// WithJobs connects and calls do. A standby serves to look; with change true the server must accept
// writes.
func WithJobs(ctx context.Context, databaseURL string, change bool, do func(*JobsAdmin) error, of ...Names) error {
	return withConnection(ctx, databaseURL, only(of), !change, func(conn *pgx.Conn) error {
		a := &JobsAdmin{conn: conn}
		if err := a.tx(ctx, func(tx pgx.Tx) error {
			var home *string
			if err := tx.QueryRow(ctx, "SELECT jobs_schema FROM reactor.deployment").Scan(&home); err != nil {
				return err
			}
			if home == nil {
				return errNoSchema
			}
			a.jobs = qualified(txNames(tx), *home)
			return nil
		}); err != nil {
			return err
		}
		return do(a)
	})
}

// Now reads the database's clock, to which all times of jobs refer.
func (a *JobsAdmin) Now(ctx context.Context) (now driver.DBTime, err error) {
	err = a.tx(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT "+micros("clock_timestamp()")).Scan(&now)
	})
	return now, err
}

// adminLockTimeout is how long a change waits for a row that somebody else has locked. A claim holds
// its locks for milliseconds.
const adminLockTimeout = 2 * time.Second

// tx runs a transaction in which only PostgreSQL's own functions and operators are found.
func (a *JobsAdmin) tx(ctx context.Context, do func(pgx.Tx) error) error {
	return inMigrationTx(ctx, a.conn, func(tx pgx.Tx) error {
		if err := execScript(ctx, tx, fmt.Sprintf("SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL jit = off; SET LOCAL lock_timeout = '%dms'", adminLockTimeout.Milliseconds())); err != nil {
			return err
		}
		return do(tx)
	})
}

// micros reads a timestamptz as driver.DBTime. As text, which this kind of connection receives, a
// year of more than four digits could not be read.
func micros(column string) string {
	return "(extract(epoch FROM " + column + ") * 1000000)::bigint"
}

// parameters are those of a statement that is put together.
type parameters []any

// add returns the text that stands for a value in the statement.
func (p *parameters) add(value any, typ string) string {
	*p = append(*p, value)
	return fmt.Sprintf("$%d::%s", len(*p), typ)
}

// at returns the text for an instant, which is exact for every year.
func (p *parameters) at(t driver.DBTime) string {
	return "('epoch'::timestamptz + " + p.add(pgtype.Interval{Microseconds: int64(t), Valid: true}, "interval") + ")"
}

// and joins conditions.
func and(conditions []string) string {
	if len(conditions) == 0 {
		return "true"
	}
	return strings.Join(conditions, " AND ")
}
