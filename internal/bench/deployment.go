package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/procfs"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// deployment is where a measurement takes place.
type deployment struct {
	cfg              Config
	database, broker string
	conn             *pgx.Conn
	dir              string
	servers          []interface{ Close() error }
}

func deploy(ctx context.Context, cfg Config) (d *deployment, err error) {
	d = &deployment{cfg: cfg, database: cfg.DatabaseURL, broker: cfg.BrokerURL}
	defer func() {
		if err != nil {
			_ = d.close()
		}
	}()
	if d.dir, err = os.MkdirTemp("", "reactor-bench-"); err != nil {
		return nil, err
	}
	if d.database == "" {
		if err := d.startServers(ctx); err != nil {
			return nil, err
		}
	}
	if d.conn, err = pgx.Connect(ctx, d.database); err != nil {
		return nil, fmt.Errorf("connect to the database: %w", err)
	}
	return d, nil
}

func (d *deployment) startServers(ctx context.Context) error {
	postgres, err := stack.StartPostgres(ctx, stack.PostgresConfig{Settings: map[string]string{"shared_buffers": "256MB", "max_wal_size": "4GB"}})
	if err != nil {
		return err
	}
	d.servers = append(d.servers, postgres)
	broker, err := stack.StartMosquitto(ctx, stack.MosquittoConfig{})
	if err != nil {
		return err
	}
	d.servers = append(d.servers, broker)
	d.database, d.broker = postgres.URL(), broker.URL()
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
	for i := len(d.servers) - 1; i >= 0; i-- {
		errs = append(errs, d.servers[i].Close())
	}
	return errors.Join(append(errs, os.RemoveAll(d.dir))...)
}

// instance is a `reactor run` under measurement.
type instance struct {
	process *stack.Process
	health  string // URL
	log     *os.File
}

// start starts the instances and waits until they share the table.
func (d *deployment) start(ctx context.Context) ([]*instance, error) {
	var all []*instance
	for i := range d.cfg.Instances {
		in, err := d.startInstance(i)
		if err != nil {
			stop(all)
			return nil, err
		}
		all = append(all, in)
	}
	for len(all) > 0 {
		var ready bool
		if err := d.conn.QueryRow(ctx, "SELECT count(owner) = 64 AND count(DISTINCT owner) = $1 FROM reactor.shards", len(all)).Scan(&ready); err != nil {
			stop(all)
			return nil, fmt.Errorf("wait for the instances: %w", err)
		}
		if ready {
			break
		}
		for _, in := range all {
			select {
			case <-in.process.Done():
				text, _ := os.ReadFile(in.log.Name()) // without it, the outcome must do
				stop(all)
				return nil, fmt.Errorf("an instance ended (%s): %s", in.process.Outcome(), text)
			default:
			}
		}
		if !sleep(ctx, 10*time.Millisecond) {
			stop(all)
			return nil, ctx.Err()
		}
	}
	return all, nil
}

func (d *deployment) startInstance(i int) (*instance, error) {
	log, err := os.Create(filepath.Join(d.dir, fmt.Sprintf("instance-%d.log", i)))
	if err != nil {
		return nil, err
	}
	port, err := stack.FreePort()
	if err != nil {
		return nil, err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	process, err := stack.StartProcess(stack.ProcessSpec{
		Path: d.cfg.Program,
		Args: []string{
			"run", "--no-migrate", "--name", fmt.Sprint("bench-", i), "--delivery", d.cfg.Delivery.String(),
			"--lanes", fmt.Sprint(d.cfg.Lanes), "--http-addr", address,
		},
		// By the environment: arguments can be seen by every user of the machine.
		Env:    append(os.Environ(), "REACTOR_DATABASE_URL="+d.database, "REACTOR_MQTT_URL="+d.broker),
		Stdout: log, Stderr: log,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start an instance: %w", err), log.Close())
	}
	return &instance{process, "http://" + address + "/healthz", log}, nil
}

// stop stops instances cleanly, and insists after a while.
func stop(all []*instance) {
	for _, in := range all {
		_ = in.process.Signal(os.Interrupt)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	for _, in := range all {
		if in.process.Wait(ctx) != nil {
			_ = in.process.Signal(os.Kill)
			<-in.process.Done()
		}
		_ = in.log.Close()
	}
}

// Usage is what a process has taken.
type Usage struct {
	CPUSeconds   float64 `json:"cpu_seconds"`
	PeakRSSBytes uint64  `json:"peak_rss_bytes"`
}

// usage reads /proc; elsewhere than on Linux it is zero.
func (in *instance) usage() Usage {
	p, err := procfs.NewProc(in.process.Pid())
	if err != nil {
		return Usage{}
	}
	var u Usage
	if stat, err := p.Stat(); err == nil {
		u.CPUSeconds = stat.CPUTime()
	}
	if status, err := p.NewStatus(); err == nil {
		u.PeakRSSBytes = status.VmHWM
	}
	return u
}

// stats asks an instance for its counters.
func (in *instance) stats(ctx context.Context) (reactor.Stats, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, in.health, nil)
	if err != nil {
		return reactor.Stats{}, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return reactor.Stats{}, err
	}
	defer response.Body.Close()
	var health struct{ Stats reactor.Stats }
	err = json.NewDecoder(response.Body).Decode(&health)
	return health.Stats, err
}

// transactions counts the database's so far. Ours are single statements mostly.
func (d *deployment) transactions(ctx context.Context) (n int64, err error) {
	err = d.conn.QueryRow(ctx, "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()").Scan(&n)
	return n, err
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
