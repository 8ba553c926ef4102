package testkit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// builds are the programs built for the tests of this binary.
type builds struct {
	mu       sync.Mutex
	dir      string
	programs map[string]*lazy[string] // by package and whether it has the race detector
	closed   bool
}

// reactorProgram is the package of the program under test. It is built in its own module, also
// for the tests of another module.
const reactorProgram = "github.com/job-publisher/reactor/cmd/reactor"

// Reactor returns the path of the program under test, cmd/reactor.
func Reactor(t testing.TB) string {
	t.Helper()
	return Build(t, reactorProgram)
}

// ReactorPlain is like Reactor, but never with the race detector. See BuildPlain.
func ReactorPlain(t testing.TB) string {
	t.Helper()
	return BuildPlain(t, reactorProgram)
}

// Build returns the path of a program of the tested module, e.g. "./cmd/reactor-lab". The
// program is built once for this test binary, with the race detector if the tests have it.
func Build(t testing.TB, pkg string) string {
	t.Helper()
	return build(t, pkg, raceEnabled)
}

// BuildPlain is like Build, but never with the race detector. It is for measurements of speed.
func BuildPlain(t testing.TB, pkg string) string {
	t.Helper()
	return build(t, pkg, false)
}

func build(t testing.TB, pkg string, race bool) string {
	t.Helper()
	path, err := kitOf(t).builds.get(pkg, race)
	if err != nil {
		t.Fatalf("testkit: build %s: %v", pkg, err)
	}
	return path
}

func (b *builds) get(pkg string, race bool) (string, error) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return "", errClosing
	}
	if b.dir == "" {
		dir, err := os.MkdirTemp("", "reactor-programs-")
		if err != nil {
			b.mu.Unlock()
			return "", err
		}
		b.dir, b.programs = dir, map[string]*lazy[string]{}
	}
	key := fmt.Sprint(pkg, race)
	program := b.programs[key]
	if program == nil {
		program = &lazy[string]{}
		b.programs[key] = program
	}
	out := filepath.Join(b.dir, fmt.Sprintf("%d-%s", len(b.programs), filepath.Base(pkg)))
	b.mu.Unlock()
	return program.get(func() (string, error) { return out, goBuild(pkg, out, race) })
}

func goBuild(pkg, out string, race bool) error {
	if pkg == releasedProgram {
		return buildReleased(out)
	}
	root, err := moduleRoot()
	if err == nil && pkg == reactorProgram {
		root, err = reactorRoot()
	}
	if err != nil {
		return err
	}
	return goBuildIn(root, pkg, out, race)
}

// goBuildIn builds a package of the module in a folder.
func goBuildIn(root, pkg, out string, race bool) error {
	args := []string{"build", "-o", out}
	if race {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, pkg)...)
	cmd.Dir = root
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, strings.TrimSpace(string(text)))
	}
	return nil
}

// moduleRoot returns the folder of go.mod above the tested package.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod above the tested package")
		}
	}
}

// reactorRoot returns the folder of reactor's module that the tested module uses.
func reactorRoot() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/job-publisher/reactor").Output()
	if err != nil {
		return "", fmt.Errorf("find the module of reactor: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

func (b *builds) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.dir == "" {
		return nil
	}
	return os.RemoveAll(b.dir)
}
