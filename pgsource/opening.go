package pgsource

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/reactor/driver"
)

// withConnection connects for a migration, or another task of an operator, of the deployment with these
// names. With look true the work only reads, and a standby is accepted.
func withConnection(ctx context.Context, databaseURL string, of Names, look bool, do func(*pgx.Conn) error) error {
	o := opening{names: of}
	if !look {
		o.accepts = takesWrites
	}
	return o.with(ctx, databaseURL, do)
}

// withConnection is withConnection for an instance: it refuses a former primary as its other connections do, which
// may be the first of the hosts.
func (s *Source) withConnection(ctx context.Context, do func(*pgx.Conn) error) error {
	return opening{names: s.cfg.deployment(), accepts: s.accepts, chosen: s.arrive}.with(ctx, s.cfg.DatabaseURL, do)
}

// with opens the connection for one task.
func (o opening) with(ctx context.Context, databaseURL string, do func(*pgx.Conn) error) error {
	conn, err := o.connect(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := do(conn); err != nil {
		return explain(err)
	}
	return nil
}

// opening says which connection is opened for an operator.
type opening struct {
	names Names
	// accepts decides which server is used; nil: whichever host target_session_attrs asks for.
	accepts pgconn.ValidateConnectFunc
	// chosen is told of the connection that is used; nil: nobody.
	chosen func(*pgconn.PgConn) error
	// lasting is the application_name of a connection that is kept for long; "": it is for one task.
	lasting string
}

// connect opens the connection, which the caller closes.
func (o opening) connect(ctx context.Context, databaseURL string) (*pgx.Conn, error) {
	checked, err := o.names.check()
	if err != nil {
		return nil, err
	}
	cfg, err := parseURL(strings.TrimSpace(databaseURL))
	if err != nil {
		return nil, &driver.ConfigError{Field: "DatabaseURL", Problem: err.Error()}
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = dialTimeout
	}
	connect := pgx.ConnectConfig
	if o.accepts != nil {
		cfg.ValidateConnect = o.accepts
		connect = (&hosts{chosen: o.chosen}).connect
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // a pooler loses named statements
	cfg.RuntimeParams["client_encoding"] = "UTF8"
	if o.lasting != "" {
		cfg.RuntimeParams["application_name"] = o.lasting
		cfg.DialFunc = hardened
	}
	var version int
	conn, err := connectWithoutLimits(ctx, cfg, connect, func(conn *pgx.Conn) error {
		var pid int
		err := inMigrationTx(ctx, conn, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, "SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4, pg_catalog.pg_backend_pid()").Scan(&version, &pid)
		})
		if err == nil && uint32(pid) == conn.PgConn().PID() { // no pooler: the session is ours alone
			err = conn.PgConn().Exec(ctx, liftLimitsSQL).Close()
		}
		return err
	})
	if err != nil {
		return nil, explain(err)
	}
	setNames(conn.PgConn(), checked)
	if version < minServerVersion {
		err = fmt.Errorf("the database runs PostgreSQL %d, reactor needs 15 or newer: upgrade the server", version/10000)
	}
	if err == nil {
		err = checkRecorded(ctx, conn)
	}
	if err != nil {
		_ = conn.Close(context.WithoutCancel(ctx)) // it was not used
		return nil, explain(err)
	}
	return conn, nil
}
