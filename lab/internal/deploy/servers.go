package deploy

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"

	"github.com/job-publisher/reactor/internal/stack"
)

// Servers are a database server and a broker that we have started.
type Servers struct {
	Postgres  *stack.Postgres
	Mosquitto *stack.Mosquitto
}

// StartServers starts both at the same time. If one fails, it stops the other.
func StartServers(ctx context.Context, database stack.PostgresConfig, broker stack.MosquittoConfig) (s Servers, err error) {
	both, starting := errgroup.WithContext(ctx)
	both.Go(func() (err error) {
		s.Postgres, err = stack.StartPostgres(starting, database)
		return err
	})
	both.Go(func() (err error) {
		s.Mosquitto, err = stack.StartMosquitto(starting, broker)
		return err
	})
	if err := both.Wait(); err != nil {
		return Servers{}, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close stops both and removes their folders. A field that is nil is ignored.
func (s Servers) Close() error {
	var errs []error
	if s.Mosquitto != nil {
		errs = append(errs, s.Mosquitto.Close())
	}
	if s.Postgres != nil {
		errs = append(errs, s.Postgres.Close())
	}
	return errors.Join(errs...)
}
