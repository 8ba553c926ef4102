package pgsource

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"

	schema "github.com/job-publisher/reactor/sql"
)

// versionTable remembers which versions of sql.Migrations are applied.
const versionTable = "reactor.schema_version"

// migrationLock is the key of the advisory lock that lets one migrate at a time,
// "migrate" in ASCII.
const migrationLock = 0x6d696772617465

// MigrationState is one version of the schema and whether it is applied.
type MigrationState struct {
	Version   int64
	Name      string
	AppliedAt time.Time // zero: pending
}

// MigrateUp applies all pending versions and returns their names. Any number of
// instances may call it at once: one works, the others wait and find nothing to do.
// Each version and the record of it commit together, so that dying at any point
// leaves whole versions.
func MigrateUp(ctx context.Context, databaseURL string) ([]string, error) {
	var names []string
	err := withMigrator(ctx, databaseURL, func(p *goose.Provider) error {
		results, err := p.Up(ctx)
		for _, r := range results {
			names = append(names, schema.Migrations[r.Source.Version-1].Name)
		}
		return err
	})
	return names, err
}

// MigrateDown undoes the newest applied version and returns its name, or "" if
// there is none. Undoing the first drops the jobs.
func MigrateDown(ctx context.Context, databaseURL string) (string, error) {
	name := ""
	err := withMigrator(ctx, databaseURL, func(p *goose.Provider) error {
		result, err := p.Down(ctx)
		if errors.Is(err, goose.ErrNoNextVersion) {
			return nil
		}
		if err == nil {
			name = schema.Migrations[result.Source.Version-1].Name
		}
		return err
	})
	return name, err
}

// MigrateStatus lists all versions this program knows.
func MigrateStatus(ctx context.Context, databaseURL string) ([]MigrationState, error) {
	var states []MigrationState
	err := withMigrator(ctx, databaseURL, func(p *goose.Provider) error {
		status, err := p.Status(ctx)
		for _, s := range status {
			states = append(states, MigrationState{
				Version: s.Source.Version, Name: schema.Migrations[s.Source.Version-1].Name, AppliedAt: s.AppliedAt,
			})
		}
		return err
	})
	return states, err
}

func withMigrator(ctx context.Context, databaseURL string, do func(*goose.Provider) error) error {
	cfg, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return fmt.Errorf("the database URL is not a connection string: %w", redacted(err))
	}
	db := stdlib.OpenDB(*cfg)
	defer db.Close()
	if err := migrate(ctx, db, do); err != nil {
		return explain(err)
	}
	return nil
}

func migrate(ctx context.Context, db *sql.DB, do func(*goose.Provider) error) error {
	// The lock is the session's: it is let go of when the connection closes, however
	// we end.
	lock, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	var version int
	if err := lock.QueryRowContext(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		return err
	}
	if version < minServerVersion {
		return fmt.Errorf("the database runs PostgreSQL %d, reactor needs 15 or newer: upgrade the server", version/10000)
	}
	if _, err := lock.ExecContext(ctx, fmt.Sprintf("SELECT pg_advisory_lock(%d)", int64(migrationLock))); err != nil {
		return err
	}
	defer lock.ExecContext(context.WithoutCancel(ctx), fmt.Sprintf("SELECT pg_advisory_unlock(%d)", int64(migrationLock)))
	if _, err := lock.ExecContext(ctx, "CREATE SCHEMA IF NOT EXISTS reactor"); err != nil {
		return err
	}
	store, err := database.NewStore(database.DialectPostgres, versionTable)
	if err != nil {
		return err
	}
	migrations := make([]*goose.Migration, 0, len(schema.Migrations))
	for _, m := range schema.Migrations {
		migrations = append(migrations, goose.NewGoMigration(m.Version, script(m.Up), script(m.Down)))
	}
	provider, err := goose.NewProvider("", db, nil,
		goose.WithStore(store), goose.WithGoMigrations(migrations...), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	if err := refuseNewer(ctx, provider); err != nil {
		return err
	}
	return do(provider)
}

// refuseNewer stops an old program from working on a newer schema.
func refuseNewer(ctx context.Context, p *goose.Provider) error {
	have, err := p.GetDBVersion(ctx)
	if err != nil {
		return err
	}
	newest := schema.Migrations[len(schema.Migrations)-1].Version
	if have > newest {
		return fmt.Errorf("the database's schema is version %d, this reactor knows up to %d: upgrade reactor", have, newest)
	}
	return nil
}

// script runs a file of statements within the migration's transaction.
func script(text string) *goose.GoFunc {
	return &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, text)
		return err
	}}
}
