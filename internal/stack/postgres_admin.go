package stack

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// SetReadOnly turns the whole server read-only, or back, while it runs, as a primary is
// that was demoted by its keeper: open sessions follow within moments, at their next
// statement, and sessions that set default_transaction_read_only themselves do not. It
// returns when new sessions have it.
func (p *Postgres) SetReadOnly(ctx context.Context, on bool) error {
	return p.setAndReload(ctx, "default_transaction_read_only", onOff(on))
}

// SetDatabaseReadOnly makes new sessions of one database read-only, or not. Open ones keep
// what they have: after a failover by name, so do those of a pool.
func (p *Postgres) SetDatabaseReadOnly(ctx context.Context, database string, on bool) error {
	// A session of its own is read-only perhaps, and may not change the catalog then.
	return p.exec(ctx, "SET default_transaction_read_only = off",
		fmt.Sprintf("ALTER DATABASE %s SET default_transaction_read_only = %s", pgx.Identifier{database}.Sanitize(), onOff(on)))
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// setAndReload changes a setting that needs no restart, and returns when new sessions
// have it. ALTER SYSTEM is allowed to read-only sessions.
func (p *Postgres) setAndReload(ctx context.Context, name, value string) error {
	if err := p.exec(ctx,
		fmt.Sprintf("ALTER SYSTEM SET %s = %s", name, quoteLiteral(value)), "SELECT pg_reload_conf()"); err != nil {
		return err
	}
	return p.await(ctx, fmt.Sprintf("%s to be %q", name, value),
		fmt.Sprintf("SELECT setting = %s FROM pg_settings WHERE name = %s", quoteLiteral(value), quoteLiteral(name)))
}

// exec runs statements, one after the other, on a connection of its own.
func (p *Postgres) exec(ctx context.Context, statements ...string) error {
	conn, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// await asks, each time over a new connection, until the answer is true.
func (p *Postgres) await(ctx context.Context, what, sql string) error {
	ctx, cancel := withStartTimeout(ctx)
	defer cancel()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last error
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return fmt.Errorf("postgres: wait for %s: %w (%v)", what, ctx.Err(), last)
		}
		ok, err := p.ask1(ctx, sql)
		if ok {
			return nil
		}
		last = err
		timer.Reset(5 * time.Millisecond)
	}
}

func (p *Postgres) ask1(ctx context.Context, sql string) (ok bool, err error) {
	conn, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		return false, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = conn.QueryRow(ctx, sql).Scan(&ok)
	return ok, err
}
