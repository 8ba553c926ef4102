package testkit

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/internal/stack"
)

const templateDatabase = "reactor_template"

// databaseNumber makes the name of each database unique, also with -count.
var databaseNumber atomic.Int64

// Postgres returns the server that the tests of this package share. Tests must not stop it;
// those that stop a server use OwnPostgres.
func Postgres(t testing.TB) *stack.Postgres {
	t.Helper()
	k := kitOf(t)
	server, err := k.postgres.get(func() (*stack.Postgres, error) {
		ctx, cancel := context.WithTimeout(context.Background(), serverStartLimit)
		defer cancel()
		return stack.StartPostgres(ctx, k.postgresConfig)
	})
	if err != nil {
		t.Fatalf("testkit: %v%s", err, remedy(err))
	}
	return server
}

// NewDatabase returns the URL of a new database. It is migrated if Main got WithMigrations.
// It is dropped when the test ends, even if there are connections to it.
//
// A database isolates a test better than a schema would: NOTIFY channels, logical
// replication and advisory locks are per database, and no search path is needed. Cloning
// the template takes some tens of milliseconds.
func NewDatabase(t testing.TB) string {
	t.Helper()
	k, server := kitOf(t), Postgres(t)
	template, err := k.template.get(func() (string, error) { return makeTemplate(server, k.migrate) })
	if err != nil {
		t.Fatalf("testkit: template database: %v", err)
	}
	name := fmt.Sprintf("test_%d", databaseNumber.Add(1))
	admin := server.URL()
	if err := execute(admin, "CREATE DATABASE "+name+" TEMPLATE "+template); err != nil {
		t.Fatalf("testkit: new database: %v", err)
	}
	t.Cleanup(func() {
		if err := dropDatabase(admin, name); err != nil {
			t.Errorf("testkit: drop database: %v", err)
		}
	})
	return server.DatabaseURL(name)
}

func makeTemplate(server *stack.Postgres, migrate func(context.Context, string) error) (string, error) {
	if migrate == nil {
		return "template0", nil
	}
	if err := execute(server.URL(), "CREATE DATABASE "+templateDatabase+" TEMPLATE template0"); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), serverStartLimit)
	defer cancel()
	if err := migrate(ctx, server.DatabaseURL(templateDatabase)); err != nil {
		return "", fmt.Errorf("migrate: %w", err)
	}
	return templateDatabase, nil
}

// dropDatabase ends the replication connections first. DROP DATABASE … FORCE ends only
// ordinary sessions, and fails if a replication slot is active.
func dropDatabase(admin, name string) error {
	return execute(admin,
		"SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots"+
			" WHERE database = '"+name+"' AND active_pid IS NOT NULL",
		"DROP DATABASE "+name+" WITH (FORCE)")
}

// execute runs statements on a new connection.
func execute(url string, statements ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && pgErr.Detail != "" {
				return fmt.Errorf("%s: %w (%s)", sql, err, pgErr.Detail)
			}
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

// OwnPostgres starts a server for this test only, which may stop and kill it. It is closed
// when the test ends.
func OwnPostgres(t testing.TB, cfg stack.PostgresConfig) *stack.Postgres {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = Logger(t)
	}
	ctx, cancel := context.WithTimeout(context.Background(), serverStartLimit)
	defer cancel()
	server, err := stack.StartPostgres(ctx, cfg)
	if err != nil {
		t.Fatalf("testkit: %v%s", err, remedy(err))
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Errorf("testkit: %v", err)
		}
	})
	return server
}

// OwnPgBouncer starts a pooler in front of cfg.Target, for this test only. It is closed when
// the test ends. cfg.Target must be closed after it, so start cfg.Target first.
func OwnPgBouncer(t testing.TB, cfg stack.PgBouncerConfig) *stack.PgBouncer {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = Logger(t)
	}
	ctx, cancel := context.WithTimeout(context.Background(), serverStartLimit)
	defer cancel()
	pooler, err := stack.StartPgBouncer(ctx, cfg)
	if err != nil {
		t.Fatalf("testkit: %v%s", err, remedy(err))
	}
	t.Cleanup(func() {
		if err := pooler.Close(); err != nil {
			t.Errorf("testkit: %v", err)
		}
	})
	return pooler
}

// Standby starts a streaming standby of a server for this test only; see stack.StartStandby.
// It is closed when the test ends.
func Standby(t testing.TB, primary *stack.Postgres) *stack.Postgres {
	t.Helper()
	return derived(t, primary, stack.StartStandby)
}

// Copy starts a physical copy of a server for this test only; see stack.CopyPostgres. It is
// closed when the test ends.
func Copy(t testing.TB, server *stack.Postgres) *stack.Postgres {
	t.Helper()
	return derived(t, server, stack.CopyPostgres)
}

func derived(t testing.TB, from *stack.Postgres, start func(context.Context, *stack.Postgres) (*stack.Postgres, error)) *stack.Postgres {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), serverStartLimit)
	defer cancel()
	server, err := start(ctx, from)
	if err != nil {
		t.Fatalf("testkit: %v", err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Errorf("testkit: %v", err)
		}
	})
	return server
}

// remedy says how to install a missing server program.
func remedy(err error) string {
	switch {
	case errors.Is(err, stack.ErrPostgresNotFound), errors.Is(err, stack.ErrMosquittoNotFound),
		errors.Is(err, stack.ErrPgBouncerNotFound):
		return "\nThe tests need real servers. Run `make setup`, or on Debian and Ubuntu:\n\tapt-get install postgresql mosquitto pgbouncer"
	default:
		return ""
	}
}
