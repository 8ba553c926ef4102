package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/lab/internal/deploy"
	"github.com/job-publisher/reactor/lab/internal/embedded"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// deployment is the servers that a measurement uses.
type deployment struct {
	cfg              Config
	database, broker string
	conn             *pgx.Conn
	stored           int64 // the largest id that was in the table before the load (see store)
	dir              string
	ours             deploy.Servers // empty if the bench has not started the servers
}

func newDeployment(ctx context.Context, cfg Config) (*deployment, error) {
	d := &deployment{cfg: cfg, database: cfg.DatabaseURL, broker: cfg.BrokerURL, stored: noneStored}
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
	if d.conn, err = d.connect(ctx); err != nil {
		return err
	}
	if d.ours.Postgres != nil {
		_, _ = d.conn.Exec(ctx, "CREATE EXTENSION pg_stat_statements") // see statements
	}
	return nil
}

// applicationName is that of the bench's own connections. Those of instances begin with "reactor-".
const applicationName = "bench"

func (d *deployment) connect(ctx context.Context) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(d.database)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	cfg.RuntimeParams["application_name"] = applicationName
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	return conn, nil
}

// check connects to servers that we have not started, in the same way as reactor. So an error
// is one line that says what to do.
func (d *deployment) check(ctx context.Context) error {
	source, err := pgsource.New(pgsource.Config{DatabaseURL: d.database})
	if err != nil {
		return err
	}
	if err := source.Open(ctx); err != nil {
		return err
	}
	source.Close()
	p, err := openPublisher(ctx, d.broker, "reactor-bench-check", reactor.AtMostOnce)
	if err != nil {
		return err
	}
	p.close(ctx)
	return nil
}

func (d *deployment) startServers(ctx context.Context) (err error) {
	settings := map[string]string{"shared_buffers": "256MB", "max_wal_size": "4GB", "shared_preload_libraries": "pg_stat_statements"}
	if n := slices.Max(append(d.cfg.MoreInstances, d.cfg.Instances)); n > 8 {
		settings["max_connections"] = fmt.Sprint(100 + 20*n)
	}
	found, err := embedded.FindPostgres(ctx, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	database := stack.PostgresConfig{BinDir: found.Dir, Settings: settings, Durable: d.cfg.Fsync}
	if d.ours, err = deploy.StartServers(ctx, database, stack.MosquittoConfig{}); err != nil { // some packages do not contain the extension
		delete(settings, "shared_preload_libraries")
		if d.ours, err = deploy.StartServers(ctx, database, stack.MosquittoConfig{}); err != nil {
			return err
		}
	}
	d.database, d.broker = d.ours.Postgres.URL(), d.ours.Mosquitto.URL()
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
	return errors.Join(append(errs, d.ours.Close(), os.RemoveAll(d.dir))...)
}
