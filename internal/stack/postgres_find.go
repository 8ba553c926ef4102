package stack

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// oldestPostgres is the first major version with column lists and row filters of
// publications, which reactor uses.
const oldestPostgres = 15

// ErrPostgresNotFound is the error if no PostgreSQL is installed that is new enough.
var ErrPostgresNotFound = errors.New("no PostgreSQL server, version 15 or newer, found: install it (Debian, Ubuntu: apt-get install postgresql)")

// PostgresBinaries is a folder with the programs of one PostgreSQL version.
type PostgresBinaries struct {
	Dir   string // contains postgres and initdb
	Major int    // e.g. 15
}

// PostgresVariable is the environment variable for the folder of PostgreSQL's programs. If it
// is set, no other folder is used. It is for tests, chaos and demo on another version.
// The account "postgres" must be able to read it.
//
//	REACTOR_TEST_POSTGRES=/opt/postgres-18/bin go test ./...
const PostgresVariable = "REACTOR_TEST_POSTGRES"

// FindPostgres looks for an installed PostgreSQL. If PostgresVariable is set, it looks only
// there. Otherwise it looks in PATH, in the folder that pg_config names, and in the folders
// of usual packages, newest version first. The error is ErrPostgresNotFound, joined with the
// reasons why the installations that were found cannot be used.
func FindPostgres() (PostgresBinaries, error) {
	if dir := os.Getenv(PostgresVariable); dir != "" {
		found, err := InspectPostgres(dir)
		if err != nil {
			return PostgresBinaries{}, fmt.Errorf("%s: %w", PostgresVariable, err)
		}
		return found, nil
	}
	var seen []error
	for _, dir := range postgresFolders() {
		found, err := InspectPostgres(dir)
		switch {
		case err == nil:
			return found, nil
		case !errors.Is(err, os.ErrNotExist):
			seen = append(seen, err)
		}
	}
	return PostgresBinaries{}, errors.Join(append([]error{ErrPostgresNotFound}, seen...)...)
}

func postgresFolders() []string {
	var dirs []string
	if path, err := exec.LookPath("postgres"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",          // Debian, Ubuntu
		"/usr/pgsql-*/bin",                   // Red Hat and kin, from postgresql.org
		"/opt/homebrew/opt/postgresql@*/bin", // macOS on ARM
		"/usr/local/opt/postgresql@*/bin",    // macOS on Intel
		"/usr/local/pgsql/bin",               // built from source
		"/usr/libexec/postgresql*",           // Alpine
		"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
	} {
		found, _ := filepath.Glob(pattern)
		slices.SortFunc(found, func(a, b string) int { return numberIn(b) - numberIn(a) })
		dirs = append(dirs, found...)
	}
	return dirs
}

// numberIn returns the first number in a path, or 0 if there is none.
func numberIn(path string) int {
	start := strings.IndexAny(path, "0123456789")
	if start < 0 {
		return 0
	}
	end := start
	for end < len(path) && path[end] >= '0' && path[end] <= '9' {
		end++
	}
	n, _ := strconv.Atoi(path[start:end])
	return n
}

// InspectPostgres checks the programs in dir. The error says why they cannot be used.
func InspectPostgres(dir string) (PostgresBinaries, error) {
	for _, program := range []string{"postgres", "initdb"} {
		if _, err := os.Stat(filepath.Join(dir, program)); err != nil {
			return PostgresBinaries{}, fmt.Errorf("folder of PostgreSQL's programs: %w", err)
		}
	}
	out, err := exec.Command(filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return PostgresBinaries{}, fmt.Errorf("%s/postgres --version: %w", dir, err)
	}
	major := numberIn(string(out)) // "postgres (PostgreSQL) 15.18 (Debian …)"
	if major < oldestPostgres {
		return PostgresBinaries{}, fmt.Errorf("%s contains PostgreSQL %d, need %d or newer", dir, major, oldestPostgres)
	}
	return PostgresBinaries{Dir: dir, Major: major}, nil
}
