package pgsource

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// limits are those that a role or a database may have set so low that they end a connection,
// or its first statement, before we can lift them.
var limits = []string{"statement_timeout", "lock_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout"}

// askForNoLimits lifts them with the very first packet. It is for connections that lead
// straight to the server: a pooler may refuse what it does not know.
func askForNoLimits(cfg *pgx.ConnConfig) {
	for _, name := range limits {
		cfg.RuntimeParams[name] = "0"
	}
}

// liftLimitsSQL lifts them for a session.
var liftLimitsSQL = "SET " + strings.Join(limits, " = 0; SET ") + " = 0"

// firstWords makes a connection of which it is not known yet where it leads, and has a first
// exchange on it. Where a limit ends that, it begins anew, asking for none; the exchange may
// happen twice, then. If what is there does not take that, either, the first error says why.
func firstWords(ctx context.Context, cfg *pgx.ConnConfig, exchange func(*pgx.Conn) error) (*pgx.Conn, error) {
	attempt := func(cfg *pgx.ConnConfig) (*pgx.Conn, error) {
		conn, err := pgx.ConnectConfig(ctx, cfg)
		if err != nil {
			return nil, err
		}
		if err := exchange(conn); err != nil {
			_ = conn.Close(context.WithoutCancel(ctx)) // nothing was done on it
			return nil, err
		}
		return conn, nil
	}
	conn, err := attempt(cfg)
	if !limited(err) || ctx.Err() != nil {
		return conn, err
	}
	unlimited := cfg.Copy()
	askForNoLimits(unlimited)
	conn, again := attempt(unlimited)
	if sqlState(again) == pgerrcode.ProtocolViolation {
		return nil, err
	}
	return conn, again
}

// limited reports whether a limit of the server may have been the cause. A connection that
// ends as we write may take the server's reason with it.
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
