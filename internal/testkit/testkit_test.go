package testkit_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
)

// limit is the timeout of every wait in a test. No wait should reach it.
const limit = 30 * time.Second

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func TestMain(m *testing.M) {
	testkit.Main(m, testkit.WithMigrations(func(ctx context.Context, url string, _ ...any) (pgconn.CommandTag, error) {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return pgconn.CommandTag{}, err
		}
		defer conn.Close(ctx)
		return conn.Exec(ctx, "CREATE TABLE migrated (n int)")
	}))
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(testContext(t), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func TestDatabasesAreSeparateAndMigrated(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	var urls sync.Map
	t.Run("tests", func(t *testing.T) {
		for i := range 6 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				url := testkit.NewDatabase(t)
				if _, twice := urls.LoadOrStore(url, true); twice {
					t.Errorf("two tests got the same database %s", url)
				}
				conn := connect(t, url)
				if _, err := conn.Exec(ctx, "INSERT INTO migrated VALUES ($1)", i); err != nil {
					t.Fatal(err)
				}
				var n int
				if err := conn.QueryRow(ctx, "SELECT count(*) FROM migrated").Scan(&n); err != nil || n != 1 {
					t.Errorf("%d rows, %v; want only the row of this test", n, err)
				}
			})
		}
	})
	// After the tests all databases are dropped.
	urls.Range(func(url, _ any) bool {
		conn, err := pgx.Connect(ctx, url.(string))
		if pgErr := (*pgconn.PgError)(nil); !errors.As(err, &pgErr) || pgErr.Code != "3D000" {
			t.Errorf("%s still exists: %v", url, err)
		}
		if conn != nil {
			conn.Close(ctx)
		}
		return true
	})
}

// A test may fail with its connections and its replication slot still open.
func TestDatabaseIsDroppedDespiteOpenConnections(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	var url string
	var ordinary *pgx.Conn
	var walsender *pgconn.PgConn
	t.Run("test", func(t *testing.T) {
		url = testkit.NewDatabase(t)
		var err error
		if ordinary, err = pgx.Connect(ctx, url); err != nil {
			t.Fatal(err)
		}
		if walsender, err = pgconn.Connect(ctx, url+"&replication=database"); err != nil {
			t.Fatal(err)
		}
		_, err = walsender.Exec(ctx, "CREATE_REPLICATION_SLOT testkit_slot TEMPORARY LOGICAL pgoutput").ReadAll()
		if err != nil {
			t.Fatal(err)
		}
	})
	defer walsender.Close(ctx)
	defer ordinary.Close(ctx)
	if err := ordinary.Ping(ctx); err == nil {
		t.Error("the connection works after its database was dropped")
	}
}

func TestBrokerIsSharedAndTopicsAreNot(t *testing.T) {
	t.Parallel()
	if a, b := testkit.Broker(t), testkit.Broker(t); a != b {
		t.Error("two calls of Broker returned different brokers")
	}
	t.Run("a/+#b", func(t *testing.T) {
		a, b := testkit.TopicPrefix(t), testkit.TopicPrefix(t)
		if a == b || strings.ContainsAny(a, "+#$") || strings.HasSuffix(a, "/") {
			t.Errorf("prefixes %q and %q: want two different ones, usable as topics", a, b)
		}
	})
}

func TestOwnServersAreClosedAfterTheTest(t *testing.T) {
	t.Parallel()
	var dirs []string
	t.Run("test", func(t *testing.T) {
		p := testkit.OwnPostgres(t, stack.PostgresConfig{Trust: true})
		m := testkit.OwnMosquitto(t, stack.MosquittoConfig{})
		dirs = []string{p.Dir(), m.Dir()}
		if err := errors.Join(p.Kill(), m.Kill()); err != nil {
			t.Error(err)
		}
	})
	for _, dir := range dirs {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s still exists (%v)", dir, err)
		}
	}
}

func TestLoggerAfterTheTest(t *testing.T) {
	t.Parallel()
	log := testkit.Logger(t)
	t.Run("test", func(t *testing.T) {
		log = testkit.Logger(t)
		log.Info("seen", "n", 1)
	})
	log.Info("dropped") // t.Log would panic
}

const signalPrinter = "./internal/testkit/testdata/signalprinter"

func TestProcess(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	bin := testkit.Build(t, signalPrinter)
	if again := testkit.Build(t, signalPrinter); again != bin {
		t.Errorf("built twice: %s and %s", bin, again)
	}
	p := testkit.Run(t, testkit.ProcessConfig{Path: bin, Args: []string{"a", "b"}, Env: []string{"SIGNALPRINTER_NAME=joe"}})
	if line, err := p.WaitLine(ctx, "ready"); err != nil || line != "ready joe 2" {
		t.Fatalf("line %q, %v", line, err)
	}
	p.Pause(t)
	p.Continue(t)
	if _, err := p.WaitLine(ctx, "got continued"); err != nil {
		t.Fatal(err)
	}
	p.Terminate(t)
	if code := p.Wait(t, limit); code != 7 {
		t.Errorf("exit code %d, want 7", code)
	}
	if _, err := p.WaitLine(ctx, "got terminated"); err != nil {
		t.Error(err)
	}
	if _, err := p.WaitLine(ctx, "never printed"); err == nil || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("WaitLine for a line that was not printed: %v", err)
	}
}

func TestProcessKill(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p := testkit.Run(t, testkit.ProcessConfig{Path: testkit.Build(t, signalPrinter)})
	if _, err := p.WaitLine(ctx, "ready"); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := p.WaitLine(cancelled, "never printed"); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	p.Kill(t)
	if code := p.Wait(t, limit); code != -1 {
		t.Errorf("exit code %d, want −1", code)
	}
}

// TestInterruptedRunLeavesNothing runs this test binary again and interrupts it while its
// servers run.
func TestInterruptedRunLeavesNothing(t *testing.T) {
	t.Parallel()
	const role = "TESTKIT_INTERRUPTED"
	if os.Getenv(role) != "" {
		fmt.Println("up", testkit.Postgres(t).Dir(), testkit.Broker(t).Dir())
		<-make(chan struct{})
	}
	ctx := testContext(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	temp, err := os.MkdirTemp("", "interrupted-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(temp)
	if err := os.Chmod(temp, 0o755); err != nil { // for the servers' accounts
		t.Fatal(err)
	}
	p := testkit.Run(t, testkit.ProcessConfig{
		Path: self, Args: []string{"-test.run=^TestInterruptedRunLeavesNothing$"},
		Env: []string{role + "=1", "TMPDIR=" + temp},
	})
	if _, err := p.WaitLine(ctx, "up "); err != nil {
		t.Fatal(err)
	}
	p.Interrupt(t)
	if code := p.Wait(t, limit); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
	left, _ := filepath.Glob(filepath.Join(temp, "*"))
	if len(left) > 0 {
		t.Errorf("files were left: %v", left)
	}
	// A server has its folder on its command line.
	if out, err := exec.Command("ps", "-eo", "args").Output(); err == nil && strings.Contains(string(out), temp) {
		t.Errorf("processes were left:\n%s", out)
	}
}
