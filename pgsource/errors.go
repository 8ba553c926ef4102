package pgsource

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/reactor/driver"
)

// claimOutcome classifies the error of a statement that commits by itself. A commit has three
// outcomes: nil means committed, a plain error means certainly not committed, and
// *driver.UnknownError means that either is possible. A plain error that is caused by a row is a
// *driver.JobError.
func claimOutcome(err error) error {
	var (
		pgErr   *pgconn.PgError
		notSent *notSentError
	)
	switch {
	case err == nil:
		return nil
	case pgconn.SafeToRetry(err), errors.As(err, &notSent):
		return err
	case aboutJob(err):
		return &driver.JobError{Reason: statementText(err), Waited: waited(err), Err: err}
	case errors.As(err, &pgErr) && pgErr.SeverityUnlocalized == "ERROR":
		return err // the server says that it rolled back
	}
	// The connection ended, or the server ended it (FATAL: that can happen after the commit became
	// durable and before we were told).
	return &driver.UnknownError{Err: err}
}

// notSentError is why there was no connection for a statement: none could be opened or set up, or none
// became free in time. So the statement was not sent, and had no effect.
type notSentError struct{ cause error }

func (e *notSentError) Error() string { return e.cause.Error() }
func (e *notSentError) Unwrap() error { return e.cause }

// aboutJob reports whether a statement failed because of a row in it: the row violates a
// constraint, a trigger fails, a value cannot be read. Other rows may succeed. That is not so where
// a table of ours is missing, a right, or memory.
func aboutJob(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.SeverityUnlocalized != "ERROR" || len(pgErr.Code) != 5 {
		return false
	}
	return !queueFull(pgErr) && (refusesRow(pgErr) || inRoutine(pgErr) && !connectionLost(err))
}

// queueFull reports whether a commit failed because the server's queue of notifications is full. Nothing but that file of
// the server's source distinguishes it from other limits; its message is translated.
func queueFull(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == pgerrcode.ProgramLimitExceeded && pgErr.File == "async.c"
}

// emptyQueue is what to do about that.
const emptyQueue = "end the session that listens and does not read, or stays in a transaction; the server's log names it"

// refusesRow reports whether the row will most likely fail again.
func refusesRow(pgErr *pgconn.PgError) bool {
	// An error that a trigger raises carries the name of the server's routine for that, which is
	// never translated: PL/pgSQL's, PL/Python's.
	if pgErr.Routine == "exec_stmt_raise" || pgErr.Routine == "PLy_elog_impl" {
		return true
	}
	switch pgErr.Code[:2] {
	case "09", "21", "22", "23", "27", "2F", "38", "39", "44", "P0", "XX", // SQL standard classes: data, constraints, triggers, routines; PL/pgSQL; corruption
		"54": // program limits: exceeded by an index
		return true
	}
	return false
}

// inRoutine reports whether a statement failed in a function, as the error's context says. Our
// statements call none, so it is a function that belongs to a row's table: of a trigger, a
// constraint or an index. What it lacks (a table, a right) or waits for (a row that an application
// has locked) need not concern other rows. The names of the languages are never translated, and the
// other contexts of our statements contain neither text.
func inRoutine(err *pgconn.PgError) bool {
	return strings.Contains(err.Where, "PL/") || strings.Contains(err.Where, "SQL")
}

// waited reports whether a statement failed because it took too long.
func waited(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == pgerrcode.LockNotAvailable || pgErr.Code == pgerrcode.QueryCanceled)
}

// statementText returns what the server says, on one line of at most 300 characters.
func statementText(err error) string {
	text := err.Error()
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		text = fmt.Sprintf("%s (SQLSTATE %s)", pgErr.Message, pgErr.Code)
	}
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "?")), " ")
	if runes := []rune(text); len(runes) > 300 {
		text = string(runes[:300]) + "…"
	}
	return text
}

// explainedError says in one line what is wrong and what to do about it. It unwraps to the error
// of pgx that it stands for, so that a program can ask for a *pgconn.PgError with errors.As.
type explainedError struct {
	text  string
	cause error
}

func (e *explainedError) Error() string { return e.text }
func (e *explainedError) Unwrap() error { return e.cause }

// explained puts a text in the place of an error's own.
func explained(cause error, format string, args ...any) error {
	return &explainedError{fmt.Sprintf(format, args...), cause}
}

// explainReadOnly is errReadOnly with its cause.
func explainReadOnly(err error) error {
	return explained(errors.Join(errReadOnly, err), "%v", errReadOnly)
}

// connectionLost reports whether the error concerns the connection and not the statement.
func connectionLost(err error) bool {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		// A server that takes no writes any more is in a different state from the one that we
		// checked.
		return pgErr.SeverityUnlocalized != "ERROR" || pgErr.Code == pgerrcode.ReadOnlySQLTransaction ||
			pgerrcode.IsOperatorIntervention(pgErr.Code) && pgErr.Code != pgerrcode.QueryCanceled
	}
	if errors.Is(err, errNoAnswer) {
		return true
	}
	return !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

// explain turns an error of connecting or of a first statement into one line that says what to do.
// An error that was explained before is returned as it is.
func explain(err error) error {
	var connectErr *pgconn.ConnectError
	where := "the database"
	if errors.As(err, &connectErr) && connectErr.Config != nil {
		where = fmt.Sprintf("the database at %s:%d", connectErr.Config.Host, connectErr.Config.Port)
	}
	var (
		pgErr   *pgconn.PgError
		dnsErr  *net.DNSError
		several *hostsError
		former  *formerServerError
		done    *explainedError
	)
	switch {
	case errors.Is(err, context.Canceled), errors.As(err, &done):
		return err
	case errors.As(err, &several) && !several.readOnly():
		return explained(err, "%v: one of them must be running, take writes and accept us", several)
	case errors.As(err, &former):
		return explained(err, "%v", former)
	case errors.Is(err, errPoolerNow):
		return explained(err, "%v", errPoolerNow)
	case errors.Is(err, errReadOnly):
		return explainReadOnly(err) // without the list of all the hosts that were tried
	case errors.As(err, &pgErr):
		return explainServer(where, err, pgErr, connectErr != nil)
	case errors.As(err, &dnsErr):
		return explained(err, "cannot find %s: %s: check the host in the database URL", where, dnsErr.Err)
	case unanswered(err):
		return explained(err, "%s does not answer: check host, port and firewall, or, if it is a pooler, whether its pool has room", where)
	case connectErr != nil:
		if tls := explainTLS(where, err); tls != nil {
			return tls
		}
		return explained(err, "cannot connect to %s: %s: is PostgreSQL running there, and the database URL right?", where, lastLine(connectErr.Unwrap()))
	}
	return err
}

// explainServer is explain for an error that the server has sent. connecting is true if it refused
// the connection.
func explainServer(where string, err error, pgErr *pgconn.PgError, connecting bool) error {
	if queueFull(pgErr) {
		return explained(err, "the server's queue of notifications is full, so every transaction that sends one fails: %s", emptyQueue)
	}
	remedy := ""
	// Where a password in the URL is not encoded, the rest of it can be the name of a setting, or its value.
	if connecting && (pgErr.Code == pgerrcode.UndefinedObject || pgErr.Code == pgerrcode.InvalidParameterValue) {
		return explained(err, "%s refuses a setting of the database URL (SQLSTATE %s; the server's log names it): check what stands behind its ?, and whether special characters are %%-encoded", where, pgErr.Code)
	}
	switch pgErr.Code {
	case pgerrcode.InvalidPassword, pgerrcode.InvalidAuthorizationSpecification:
		remedy = "check user and password in the database URL, and pg_hba.conf"
		if wantsCertificate(pgErr) {
			remedy = "name the files of our certificate and its key in the database URL, sslcert=FILE and sslkey=FILE"
		}
	case pgerrcode.InvalidCatalogName:
		remedy = "create the database, or correct its name in the database URL"
	case pgerrcode.InsufficientPrivilege:
		remedy = "run this as the owner of the tables; an instance needs GRANT USAGE ON SCHEMA reactor, GRANT SELECT, UPDATE ON jobs and GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA reactor, after `reactor migrate up` if that was not done yet"
		if connecting {
			remedy = "grant this role CONNECT on the database"
		}
	case pgerrcode.TooManyConnections:
		remedy = fmt.Sprintf("an instance holds %d connections when it is idle, and up to pgsource.Config.MaxConns + %d under load: raise max_connections or the limit of the role or database, run fewer instances, or lower pgsource.Config.MaxConns", idleConns, extraConns)
	case pgerrcode.CannotConnectNow:
		remedy = "the server is starting up or shutting down: try again in a moment"
	case pgerrcode.UndefinedTable, pgerrcode.InvalidSchemaName, pgerrcode.UndefinedColumn:
		remedy = "the schema is not this version's: run `reactor migrate up`"
	case pgerrcode.ReadOnlySQLTransaction:
		return explainReadOnly(err)
	case pgerrcode.ProtocolViolation:
		// PgBouncer uses this one code for everything that it reports.
		switch {
		case strings.Contains(pgErr.Message, "statement pooling mode"):
			remedy = "use a pool in transaction mode, or the database's own address"
		case strings.Contains(pgErr.Message, "query_wait_timeout"):
			remedy = "the pooler has no connection left for us: enlarge its pool, or use transaction mode"
		}
	}
	if remedy == "" {
		remedy = pgErr.Hint // our own schema raises its errors with a hint
	}
	if remedy == "" {
		return explained(err, "%s says: %s (SQLSTATE %s)", where, pgErr.Message, pgErr.Code)
	}
	return explained(err, "%s says: %s: %s", where, pgErr.Message, remedy)
}

// lastLine returns what the system says, such as "connection refused"; without that the last line of an error that
// lists every address that was tried. The address is told by the caller.
func lastLine(err error) string {
	var system syscall.Errno
	switch {
	case err == nil:
		return "no answer"
	case errors.As(err, &system):
		return system.Error()
	}
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
