package testkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/job-publisher/reactor/internal/stack"
)

// serverStartLimit is the timeout for the start of a server. It is long, for a machine that is
// busy.
const serverStartLimit = 90 * time.Second

// Option is an option of Main.
type Option func(*kit)

// WithMigrations makes Main call migrate once, for the template from which every database of
// NewDatabase is cloned. migrate must close its connections to url, because PostgreSQL cannot
// clone a database that is in use. Its first result is ignored.
func WithMigrations[T, O any](migrate func(ctx context.Context, url string, options ...O) (T, error)) Option {
	return func(k *kit) {
		k.migrate = func(ctx context.Context, url string) error {
			_, err := migrate(ctx, url)
			return err
		}
	}
}

// WithPostgres replaces the configuration of the shared server. The default has no fsync and
// no passwords.
func WithPostgres(cfg stack.PostgresConfig) Option {
	return func(k *kit) { k.postgresConfig = cfg }
}

// WithMosquitto replaces the configuration of the shared broker.
func WithMosquitto(cfg stack.MosquittoConfig) Option {
	return func(k *kit) { k.mosquittoConfig = cfg }
}

// WithGoleak adds options to the search for leaked goroutines after the tests.
func WithGoleak(options ...goleak.Option) Option {
	return func(k *kit) { k.leakOptions = append(k.leakOptions, options...) }
}

// kit is what the tests of one package share.
type kit struct {
	migrate         func(context.Context, string) error
	postgresConfig  stack.PostgresConfig
	mosquittoConfig stack.MosquittoConfig
	leakOptions     []goleak.Option

	postgres  lazy[*stack.Postgres]
	template  lazy[string] // name of the migrated database
	mosquitto lazy[*stack.Mosquitto]
	builds    builds
}

// current is the kit of this test binary. It is a global variable because tests have no other
// access to what their TestMain made. Main sets it before any test runs.
var current *kit

// Main is the whole body of a TestMain. It runs the tests, stops the servers that they have
// started, checks for leaked goroutines, and exits. SIGINT and SIGTERM stop the servers too.
// After a kill -9 of this process the servers end by themselves (see package stack), but their
// temporary folders stay.
func Main(m *testing.M, options ...Option) {
	k := &kit{postgresConfig: stack.PostgresConfig{Trust: true}}
	for _, option := range options {
		option(k)
	}
	current = k

	interrupts := make(chan os.Signal, 1)
	finished, watched := make(chan struct{}), make(chan struct{})
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	go func() {
		defer close(watched)
		select {
		case sig := <-interrupts:
			fmt.Fprintf(os.Stderr, "testkit: %s, stopping servers\n", sig)
			if err := k.close(); err != nil {
				fmt.Fprintln(os.Stderr, "testkit:", err)
			}
			os.Exit(130)
		case <-finished:
		}
	}()

	code := k.run(m)
	signal.Stop(interrupts)
	close(finished)
	<-watched
	if code == 0 {
		if err := goleak.Find(k.leakOptions...); err != nil {
			fmt.Fprintln(os.Stderr, "testkit: after the tests:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// run runs the tests, and stops the servers even if m.Run panics.
func (k *kit) run(m *testing.M) (code int) {
	defer func() {
		if err := k.close(); err != nil {
			fmt.Fprintln(os.Stderr, "testkit:", err)
			code = max(code, 1)
		}
	}()
	return m.Run()
}

func (k *kit) close() error {
	return errors.Join(
		k.mosquitto.close(func(m *stack.Mosquitto) error { return m.Close() }),
		k.postgres.close(func(p *stack.Postgres) error { return p.Close() }),
		k.builds.close(),
	)
}

// kitOf returns the kit or fails the test.
func kitOf(t testing.TB) *kit {
	t.Helper()
	if current == nil {
		t.Fatal("testkit: this package needs func TestMain(m *testing.M) { testkit.Main(m) }")
	}
	return current
}

// lazy is a value that the first call of get creates. Concurrent calls wait for it. An error is
// kept too, so that not every test tries again and waits for the same error.
type lazy[T any] struct {
	mu     sync.Mutex
	asked  bool
	closed bool
	value  T
	err    error
}

var errClosing = errors.New("the tests are over")

func (l *lazy[T]) get(create func() (T, error)) (T, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		var none T
		return none, errClosing
	}
	if !l.asked {
		l.asked = true
		l.value, l.err = create()
	}
	return l.value, l.err
}

func (l *lazy[T]) close(destroy func(T) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	if !l.asked || l.err != nil {
		return nil
	}
	return destroy(l.value)
}
