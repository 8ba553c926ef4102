package reactor_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/pgsource"
)

// newWorldOn is newWorld on a server of its own.
func newWorldOn(t *testing.T, server *stack.Postgres) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := pgsource.MigrateUp(ctx, server.URL()); err != nil {
		t.Fatal(err)
	}
	return newWorld(t, server.URL(), "")
}

// writeFile makes a file that a server under another account can read.
func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "reactor-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}
