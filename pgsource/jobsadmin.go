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
// reactor, SELECT on its tables, and on the table of jobs SELECT, for changes UPDATE as well, and to cancel
// DELETE.
type JobsAdmin struct {
	conn *pgx.Conn
	jobs string // the table, qualified; "": not looked up yet
	// needs are the rights of what is done with it. They are known before the first statement that takes one,
	// so that an error names all that are lacking, and no others.
	needs rights
	// limits are added to the settings of each transaction.
	limits string
}

// WithJobs connects and calls do. A standby serves to look; with change true the server must accept
// writes.
func WithJobs(ctx context.Context, databaseURL string, change bool, do func(*JobsAdmin) error, of ...Names) error {
	return withConnection(ctx, databaseURL, only(of), !change, func(conn *pgx.Conn) error {
		a := &JobsAdmin{conn: conn, needs: toLook}
		err := do(a) // which determines what it needs
		return explainRights(ctx, conn, a.needs, err)
	})
}

// find looks up where the table of jobs is. It takes a right, so it comes after needs is set.
func (a *JobsAdmin) find(ctx context.Context) error {
	if a.jobs != "" {
		return nil
	}
	return a.tx(ctx, func(tx pgx.Tx) error {
		var home *string
		if err := tx.QueryRow(ctx, "SELECT jobs_schema FROM reactor.deployment").Scan(&home); err != nil {
			return err
		}
		if home == nil {
			return errNoSchema
		}
		a.jobs = qualified(txNames(tx), *home)
		return nil
	})
}

// Intend says that jobs are selected in order to change them. If the role lacks a right, Select then asks for
// those of the action as well, and not the action for more when Select has got its own.
func (a *JobsAdmin) Intend(action JobAction) { a.needs = action.needs() }

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
		if err := execScript(ctx, tx, fmt.Sprintf("SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL jit = off; SET LOCAL lock_timeout = '%dms'", adminLockTimeout.Milliseconds())+a.limits); err != nil {
			return err
		}
		return do(tx)
	})
}

// micros reads a timestamptz as driver.DBTime. As text, which this kind of connection receives, a
// year of more than four digits could not be read. It saturates as driver.DBTimeOf does: the last
// thirty years of PostgreSQL's, and the infinities, are beyond every DBTime.
func micros(column string) string {
	return "CASE WHEN " + column + " >= " + lastInstant + " THEN 9223372036854775807 WHEN " + column + " = '-infinity'::timestamptz THEN '-9223372036854775808'::bigint" +
		" ELSE (extract(epoch FROM " + column + ") * 1000000)::bigint END"
}

// lastInstant is the last driver.DBTime. PostgreSQL's extract is exact before it, and rounds after it.
const lastInstant = "('epoch'::timestamptz + '2562047788:00:54.775807'::interval)"

// beyond reads by how many microseconds a timestamptz is later than that.
func beyond(column string) string {
	return "CASE WHEN " + column + " > " + lastInstant + " THEN (extract(epoch FROM " + column + " - " + lastInstant + ") * 1000000)::bigint ELSE 0 END"
}

// parameters are those of a statement that is put together.
type parameters []any

// add returns the text that stands for a value in the statement.
func (p *parameters) add(value any, typ string) string {
	*p = append(*p, value)
	return fmt.Sprintf("$%d::%s", len(*p), typ)
}

// at returns the text for an instant, which is exact for every year. What is earlier than PostgreSQL's
// first instant becomes that.
func (p *parameters) at(t driver.DBTime) string {
	t = max(t, earliestTimestamp)
	return "('epoch'::timestamptz + " + p.add(pgtype.Interval{Microseconds: int64(t), Valid: true}, "interval") + ")"
}

// and joins conditions.
func and(conditions []string) string {
	if len(conditions) == 0 {
		return "true"
	}
	return strings.Join(conditions, " AND ")
}
