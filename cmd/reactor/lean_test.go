package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	// maxProgramBytes is for the daemon as `make build` builds it. The image has at most 20 MB (scripts/image-test.sh), of which the
	// certificates take 0.22.
	maxProgramBytes = 19_770_000
	// maxConsumerModules is for the whole module graph of a program that embeds the library.
	maxConsumerModules = 44
)

// notInTheDaemon are prefixes of the import paths that belong to the lab, to tests or to tools.
var notInTheDaemon = []string{
	"github.com/job-publisher/reactor/lab", "github.com/job-publisher/reactor/internal/stack",
	"github.com/job-publisher/reactor/internal/testkit", "github.com/job-publisher/reactor/internal/otlptest", "github.com/job-publisher/reactor/internal/check",
	"codeberg.org/", "gonum.org/", "github.com/mochi-mqtt/", "github.com/lib/pq", "github.com/fergusstrange/",
	"github.com/nats-io/", "github.com/eclipse/paho.golang/paho", "honnef.co/", "mvdan.cc/", "go.uber.org/goleak",
	"testing", "net/http/pprof",
}

// goTool runs go in a folder and returns the lines that it prints.
func goTool(t *testing.T, dir string, env []string, args ...string) []string {
	t.Helper()
	cmd := osexec.Command("go", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.Output()
	if failed := (*osexec.ExitError)(nil); errors.As(err, &failed) {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, failed.Stderr)
	} else if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(bytes.TrimSpace(out)))
}

// TestDaemonIsLean: packages that are only for demo, benchmarks and tests are not linked.
func TestDaemonIsLean(t *testing.T) {
	t.Parallel()
	for _, path := range goTool(t, ".", nil, "list", "-deps", ".") {
		for _, fat := range notInTheDaemon {
			if path == fat || strings.HasPrefix(path, strings.TrimSuffix(fat, "/")+"/") {
				t.Errorf("the daemon links %s: go list -f '{{.ImportPath}} {{.Imports}}' -deps ./cmd/reactor shows which package imports it", path)
			}
		}
	}
	program := filepath.Join(t.TempDir(), "reactor")
	if out, err := osexec.Command("../../scripts/build.sh", program, "lean").CombinedOutput(); err != nil {
		t.Fatalf("scripts/build.sh: %v\n%s", err, out)
	}
	info, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	if t.Logf("%.1f MB", float64(info.Size())/1e6); info.Size() > maxProgramBytes {
		t.Errorf("the daemon has %d bytes, more than %d", info.Size(), maxProgramBytes)
	}
}

// TestLibraryIsLean: a program that embeds the library has few modules in its graph, including those
// that only `go mod tidy` needs.
func TestLibraryIsLean(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": fmt.Sprintf("module consumer\n\ngo 1.26.0\n\nrequire github.com/job-publisher/reactor v0.0.0\n\nreplace github.com/job-publisher/reactor => %q\n", root),
		"main.go": `package main

import (
	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

func main() {
	source, _ := pgsource.New(pgsource.Config{})
	sink, _ := mqttsink.New(mqttsink.Config{})
	reactor.New(source, sink, reactor.Config{})
}
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"GOFLAGS=-mod=mod", "GOWORK=off"}
	goTool(t, dir, env, "build", "-o", os.DevNull, ".") // writes the requirements into go.mod
	modules := goTool(t, dir, env, "list", "-m", "-f", "{{.Path}}", "all")
	if t.Logf("%d modules", len(modules)); len(modules) > maxConsumerModules {
		t.Errorf("a program that imports the library has %d modules in its graph, more than %d:\n%s", len(modules), maxConsumerModules, strings.Join(modules, "\n"))
	}
	for _, lab := range []string{"github.com/nats-io/nats-server/v2", "gonum.org/v1/gonum", "gonum.org/v1/plot", "honnef.co/go/tools", "github.com/mochi-mqtt/server/v2"} {
		if slices.Contains(modules, lab) {
			t.Errorf("a program that imports the library has %s in its graph", lab)
		}
	}
}
