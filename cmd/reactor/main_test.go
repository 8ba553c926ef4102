package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
)

func TestMain(m *testing.M) { testkit.Main(m, testkit.WithMigrations(pgsource.MigrateUp)) }

// call runs the program in a process of its own, and returns when it has ended.
func call(t *testing.T, env []string, args ...string) (code int, output string) {
	t.Helper()
	p := testkit.Run(t, testkit.ProcessConfig{Path: testkit.Reactor(t), Args: args, Env: env})
	code = p.Wait(t, time.Minute)
	return code, p.Output()
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func connect(t *testing.T, ctx context.Context, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func exec(t *testing.T, ctx context.Context, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(ctx, sql, args...); err != nil {
		t.Fatal(err)
	}
}

// broker starts a broker for this test alone, because the topic of the verbatim statement is fixed.
func broker(t *testing.T) string {
	t.Helper()
	return testkit.OwnMosquitto(t, stack.MosquittoConfig{}).URL()
}

func subscribe(t *testing.T, ctx context.Context, url, filter string) *check.Subscriber {
	t.Helper()
	s, err := check.Subscribe(ctx, check.SubscriberConfig{URL: url, Filter: filter, QoS: 2, ClientID: "judge", Logger: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func waitLine(t *testing.T, ctx context.Context, p *testkit.Process, text string) string {
	t.Helper()
	line, err := p.WaitLine(ctx, text)
	if err != nil {
		t.Fatalf("no line with %q: %v\n%s", text, err, p.Output())
	}
	return line
}

// lines of a program's output, without the last empty one.
func lines(output string) []string { return strings.Split(strings.TrimSpace(output), "\n") }
