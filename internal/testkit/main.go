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

// serverStartLimit bounds the start of a server; a laden machine is slow.
const serverStartLimit = 90 * time.Second

// Option of Main.
type Option func(*kit)

// WithMigrations has migrate applied once, to the template that every database of
// NewDatabase is cloned from. It must close its connections to url: PostgreSQL
// clones no database that is in use. What it returns besides the error is dropped.
func WithMigrations[T any](migrate func(ctx context.Context, url string) (T, error)) Option {
	return func(k *kit) {
		k.migrate = func(ctx context.Context, url string) error {
			_, err := migrate(ctx, url)
			return err
		}
	}
}

// WithPostgres replaces the configuration of the shared server. Defaults to one
// without fsync and without passwords.
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

// current is the kit of this test binary: tests have no other way to reach what
// their TestMain made. Set by Main before any test runs.
var current *kit

// Main is the whole body of a TestMain. It runs the tests, stops the servers that
// they had started, looks for leaked goroutines, and exits. SIGINT and SIGTERM
// stop the servers too. What even a kill -9 must not leave running dies by itself
// (see package stack), though its temporary folder then stays.
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

// run makes sure that the servers stop even where m.Run panics.
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

// lazy is a value made by the first who asks. Others wait for it; a failure is
// remembered, so that a hundred tests do not each wait for it again.
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
