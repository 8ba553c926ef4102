package stack

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakePostgres makes a folder with programs that print a version.
func fakePostgres(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"postgres", "initdb"} {
		script := "#!/bin/sh\necho '" + name + " (PostgreSQL) " + version + "'\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestInspectPostgres(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]int{"15.18 (Debian 15.18-0+deb12u1)": 15, "18beta1": 18, "17.5": 17} {
		got, err := InspectPostgres(fakePostgres(t, version))
		if err != nil || got.Major != want {
			t.Errorf("%s: major %d, %v; want %d", version, got.Major, err, want)
		}
	}
	if _, err := InspectPostgres(fakePostgres(t, "14.12")); err == nil || !strings.Contains(err.Error(), "PostgreSQL 14") {
		t.Errorf("an old version: %v, want an error", err)
	}
	if _, err := InspectPostgres(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty folder: %v, want os.ErrNotExist", err)
	}
}

func TestNumberIn(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]int{
		"/usr/lib/postgresql/9/bin": 9, "/usr/lib/postgresql/16/bin": 16, "/usr/pgsql-17/bin": 17, "/usr/local/pgsql/bin": 0,
	} {
		if got := numberIn(path); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
}

func TestFreePortsAreFree(t *testing.T) {
	t.Parallel()
	for range 50 {
		port, err := freePort()
		if err != nil {
			t.Fatal(err)
		}
		if port < lowestPort || port >= lowestEphemeralPort() {
			t.Errorf("port %d is in the range of outgoing connections", port)
		}
	}
}
