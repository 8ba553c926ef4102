package pgsource

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/reactor"
)

// commitOutcome classifies the error of a statement that commits by itself. A
// COMMIT has three outcomes: nil is done, a plain error is certainly not done, and
// *reactor.UnknownError is either.
func commitOutcome(err error) error {
	var (
		pgErr      *pgconn.PgError
		connectErr *pgconn.ConnectError
	)
	switch {
	case err == nil:
		return nil
	case pgconn.SafeToRetry(err), errors.As(err, &connectErr):
		return err // it was never sent
	case errors.As(err, &pgErr) && pgErr.SeverityUnlocalized == "ERROR":
		return err // the server rolled back and says so
	}
	// The connection ended, or the server ended it (FATAL: that can happen after the
	// commit became durable, before we were told).
	return &reactor.UnknownError{Err: err}
}

// connectionError is a statement that could not be sent for want of a connection. It
// reads as one line, and unwraps to what pgx said.
type connectionError struct {
	doing     string
	explained error
	cause     error
}

func (e *connectionError) Error() string { return e.doing + ": " + e.explained.Error() }
func (e *connectionError) Unwrap() error { return e.cause }

// connectionLost reports whether the error is about the connection and not
// about the statement.
func connectionLost(err error) bool {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.SeverityUnlocalized != "ERROR" ||
			pgerrcode.IsOperatorIntervention(pgErr.Code) && pgErr.Code != pgerrcode.QueryCanceled
	}
	return !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

// explain turns the errors of a first connection into one line that says what to
// do about it.
func explain(err error) error {
	var connectErr *pgconn.ConnectError
	where := "the database"
	if errors.As(err, &connectErr) && connectErr.Config != nil {
		where = fmt.Sprintf("the database at %s:%d", connectErr.Config.Host, connectErr.Config.Port)
	}
	var (
		pgErr  *pgconn.PgError
		dnsErr *net.DNSError
		netErr net.Error
	)
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &pgErr):
		return explainServer(where, pgErr, connectErr)
	case errors.As(err, &dnsErr):
		return fmt.Errorf("cannot find %s: %s: check the host in the database URL", where, dnsErr.Err)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		return fmt.Errorf("%s does not answer: check host, port and firewall", where)
	case connectErr != nil:
		return fmt.Errorf("cannot connect to %s: %s: is PostgreSQL running there, and the database URL right?", where, lastLine(connectErr.Unwrap()))
	}
	return err
}

func explainServer(where string, pgErr *pgconn.PgError, connectErr *pgconn.ConnectError) error {
	remedy := ""
	switch pgErr.Code {
	case pgerrcode.InvalidPassword, pgerrcode.InvalidAuthorizationSpecification:
		remedy = "check user and password in the database URL, and pg_hba.conf"
	case pgerrcode.InvalidCatalogName:
		remedy = "create the database, or correct its name in the database URL"
	case pgerrcode.InsufficientPrivilege:
		remedy = "run `reactor migrate up` as the owner of the database, then GRANT SELECT, UPDATE ON jobs and USAGE ON SCHEMA reactor with ALL ON ALL TABLES IN SCHEMA reactor to this role"
		if connectErr != nil {
			remedy = "grant this role CONNECT on the database"
		}
	case pgerrcode.TooManyConnections:
		remedy = "raise max_connections, or lower --database-connections"
	case pgerrcode.CannotConnectNow:
		remedy = "the server is starting up or shutting down: try again in a moment"
	case pgerrcode.UndefinedTable, pgerrcode.InvalidSchemaName, pgerrcode.UndefinedColumn:
		remedy = "the schema is not this version's: run `reactor migrate up`"
	}
	if remedy == "" {
		return fmt.Errorf("%s says: %s (SQLSTATE %s)", where, pgErr.Message, pgErr.Code)
	}
	return fmt.Errorf("%s says: %s: %s", where, pgErr.Message, remedy)
}

// redacted keeps the reason of a malformed connection string and drops the
// string, which may hold a password.
func redacted(err error) error {
	var parseErr *pgconn.ParseConfigError
	if errors.As(err, &parseErr) {
		if cause := parseErr.Unwrap(); cause != nil && !strings.Contains(cause.Error(), "://") {
			return cause
		}
	}
	return errors.New("cannot be parsed")
}

// lastLine is the end of an error that lists every address it tried.
func lastLine(err error) string {
	if err == nil {
		return "no answer"
	}
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
