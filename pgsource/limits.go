package pgsource

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// limits are settings that a role or a database may have set so low that they end a connection, or
// its first statement, before we can change them.
var limits = []string{"statement_timeout", "lock_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout"}

// requestNoLimits switches them off in the startup packet. It is for connections that lead straight
// to the server: a pooler may refuse settings that it does not know.
func requestNoLimits(cfg *pgx.ConnConfig) {
	for _, name := range limits {
		cfg.RuntimeParams[name] = "0"
	}
}

// liftLimitsSQL switches them off for a session.
var liftLimitsSQL = "SET " + strings.Join(limits, " = 0; SET ") + " = 0"

// connectWithoutLimits opens a connection of which it is not known yet where it leads, and runs
// exchange on it. If a limit ends the exchange, it connects again, requesting no limits; so
// exchange may run twice. If the other side does not accept that request, the first error is
// returned.
func connectWithoutLimits(ctx context.Context, cfg *pgx.ConnConfig, connect func(context.Context, *pgx.ConnConfig) (*pgx.Conn, error), exchange func(*pgx.Conn) error) (*pgx.Conn, error) {
	attempt := func(cfg *pgx.ConnConfig) (*pgx.Conn, error) {
		conn, err := connect(ctx, cfg)
		if err != nil {
			return nil, err
		}
		if err := exchange(conn); err != nil {
			_ = conn.Close(context.WithoutCancel(ctx)) // nothing was changed over it
			return nil, err
		}
		return conn, nil
	}
	conn, err := attempt(cfg)
	if !limited(err) || ctx.Err() != nil {
		return conn, err
	}
	unlimited := cfg.Copy()
	requestNoLimits(unlimited)
	conn, again := attempt(unlimited)
	if sqlState(again) == pgerrcode.ProtocolViolation {
		return nil, err
	}
	return conn, again
}

// limited reports whether a limit of the server may have been the cause. If the server ends a
// connection while we write, its reason may be lost.
func limited(err error) bool {
	switch sqlState(err) {
	case pgerrcode.QueryCanceled, pgerrcode.LockNotAvailable, pgerrcode.IdleInTransactionSessionTimeout, pgerrcode.IdleSessionTimeout:
		return true
	case "":
		var connectErr *pgconn.ConnectError
		return err != nil && !errors.As(err, &connectErr) && connectionLost(err)
	}
	return false
}
