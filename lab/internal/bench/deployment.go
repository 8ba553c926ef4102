package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/lab/internal/embedded"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// deployment is where a measurement takes place.
type deployment struct {
	cfg              Config
	database, broker string
	conn             *pgx.Conn
	dir              string
	postgres         *stack.Postgres  // nil: not ours
	mosquitto        *stack.Mosquitto // nil: not ours
}

func deploy(ctx context.Context, cfg Config) (*deployment, error) {
	d := &deployment{cfg: cfg, database: cfg.DatabaseURL, broker: cfg.BrokerURL}
	if err := d.open(ctx); err != nil {
		_ = d.close() // the first error counts
		return nil, err
	}
	return d, nil
}

func (d *deployment) open(ctx context.Context) (err error) {
	if d.dir, err = os.MkdirTemp("", "reactor-bench-"); err != nil {
		return err
	}
	if d.database == "" {
		err = d.startServers(ctx)
	} else {
		err = d.check(ctx)
	}
	if err != nil {
		return err
	}
	if d.conn, err = pgx.Connect(ctx, d.database); err != nil {
		return fmt.Errorf("connect to the database: %w", err)
	}
	if d.postgres != nil {
		_, _ = d.conn.Exec(ctx, "CREATE EXTENSION pg_stat_statements") // see statements
	}
	return nil
}

// check looks at servers that are not ours as reactor does, for what is wrong with them is
// then said in one line that names the remedy.
func (d *deployment) check(ctx context.Context) error {
	source, err := pgsource.New(pgsource.Config{DatabaseURL: d.database})
	if err != nil {
		return err
	}
	if err := source.Open(ctx); err != nil {
		return err
	}
	source.Close()
	p, err := openPipe(ctx, d.broker, "reactor-bench-check", reactor.AtMostOnce)
	if err != nil {
		return err
	}
	p.close(ctx)
	return nil
}

func (d *deployment) startServers(ctx context.Context) (err error) {
	settings := map[string]string{"shared_buffers": "256MB", "max_wal_size": "4GB", "shared_preload_libraries": "pg_stat_statements"}
	found, err := embedded.FindPostgres(ctx, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	d.postgres, err = stack.StartPostgres(ctx, stack.PostgresConfig{BinDir: found.Dir, Settings: settings, Durable: d.cfg.Fsync})
	if err != nil { // some packages come without the extension
		delete(settings, "shared_preload_libraries")
		if d.postgres, err = stack.StartPostgres(ctx, stack.PostgresConfig{BinDir: found.Dir, Settings: settings, Durable: d.cfg.Fsync}); err != nil {
			return err
		}
	}
	if d.mosquitto, err = stack.StartMosquitto(ctx, stack.MosquittoConfig{}); err != nil {
		return err
	}
	d.database, d.broker = d.postgres.URL(), d.mosquitto.URL()
	_, err = pgsource.MigrateUp(ctx, d.database)
	return err
}

func (d *deployment) close() error {
	var errs []error
	if d.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		errs = append(errs, d.conn.Close(ctx))
	}
	if d.mosquitto != nil {
		errs = append(errs, d.mosquitto.Close())
	}
	if d.postgres != nil {
		errs = append(errs, d.postgres.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(d.dir))...)
}
