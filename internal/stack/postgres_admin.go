package stack

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
)

// SetReadOnly makes the whole server read-only or writable while it runs, as when a cluster
// manager demotes a primary. Open sessions get the setting within moments, at their next
// statement. Sessions that set default_transaction_read_only themselves keep their value. It
// returns when new sessions have the setting.
func (p *Postgres) SetReadOnly(ctx context.Context, on bool) error {
	return p.setAndReload(ctx, "default_transaction_read_only", onOff(on))
}

// SetDatabaseReadOnly makes new sessions of one database read-only or writable. Open sessions
// keep their setting, like the sessions of a pool after a failover by name.
func (p *Postgres) SetDatabaseReadOnly(ctx context.Context, database string, on bool) error {
	// Our session may be read-only itself; then it could not change the catalog.
	return p.exec(ctx, "SET default_transaction_read_only = off",
		fmt.Sprintf("ALTER DATABASE %s SET default_transaction_read_only = %s", pgx.Identifier{database}.Sanitize(), onOff(on)))
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// setAndReload changes a setting that needs no restart, and returns when new sessions have
// it. A read-only session may use ALTER SYSTEM.
func (p *Postgres) setAndReload(ctx context.Context, name, value string) error {
	if err := p.exec(ctx,
		fmt.Sprintf("ALTER SYSTEM SET %s = %s", name, quoteLiteral(value)), "SELECT pg_reload_conf()"); err != nil {
		return err
	}
	return p.await(ctx, fmt.Sprintf("%s to be %q", name, value),
		fmt.Sprintf("SELECT setting = %s FROM pg_settings WHERE name = %s", quoteLiteral(value), quoteLiteral(name)))
}

// exec runs statements, one after the other, on a new connection.
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

// await repeats a query, each time on a new connection, until it returns true.
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
		ok, err := p.queryBool(ctx, sql)
		if ok {
			return nil
		}
		last = err
		timer.Reset(5 * time.Millisecond)
	}
}

// queryBool runs a query that returns a boolean, on a new connection.
func (p *Postgres) queryBool(ctx context.Context, sql string) (ok bool, err error) {
	conn, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		return false, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = conn.QueryRow(ctx, sql).Scan(&ok)
	return ok, err
}

// UseTLS accepts connections with TLS as well, with this certificate (PEM) and its key, or with another one than
// before. It returns when new connections get it.
func (p *Postgres) UseTLS(ctx context.Context, certFile, keyFile string) error {
	// The server refuses a key that others may read, and files that it does not own.
	for from, to := range map[string]string{certFile: "server.pem", keyFile: "server.key"} {
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := p.writeData(to, string(content)); err != nil {
			return err
		}
	}
	for name, value := range map[string]string{"ssl_cert_file": "server.pem", "ssl_key_file": "server.key"} {
		if err := p.setAndReload(ctx, name, value); err != nil {
			return err
		}
	}
	conn, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var before time.Time
	if err := conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&before); err != nil {
		return err
	}
	if err := p.setAndReload(ctx, "ssl", "on"); err != nil {
		return err
	}
	return p.await(ctx, "the certificate", fmt.Sprintf("SELECT pg_conf_load_time() > %s", quoteLiteral(before.Format(time.RFC3339Nano))))
}
