package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
)

func TestDemo(t *testing.T) {
	t.Parallel()
	tmp := testTempDir(t)
	// Variables for `reactor run` must not change the demo's instances.
	code, output := call(t, []string{"TMPDIR=" + tmp, "REACTOR_CONSUMER_COUNT=5", "REACTOR_LANES=0"}, "demo", "--program", testkit.Reactor(t), "--jobs", "300", "--over", "500ms")
	if code != 0 || !strings.Contains(output, "published         300 of 300") || !strings.Contains(output, "lateness p99") {
		t.Errorf("exit code %d:\n%s", code, output)
	}
	mustBeEmpty(t, tmp)
}

func TestDemoInterrupted(t *testing.T) {
	t.Parallel()
	tmp := testTempDir(t)
	p := testkit.Run(t, testkit.ProcessConfig{
		Path: lab(t), Args: []string{"demo", "--program", testkit.Reactor(t), "--jobs", "1000", "--over", "1m"}, Env: []string{"TMPDIR=" + tmp},
	})
	if _, err := p.WaitLine(testContext(t), "received"); err != nil {
		t.Fatalf("%v:\n%s", err, p.Output())
	}
	p.Interrupt(t)
	if code := p.Wait(t, 30*time.Second); code != 1 || !strings.Contains(p.Output(), "interrupted") {
		t.Errorf("exit code %d:\n%s", code, p.Output())
	}
	mustBeEmpty(t, tmp)
}

// testTempDir returns a folder with a short path, because a socket address is short, that the
// servers' accounts may enter.
func testTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rd-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func mustBeEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("files were left: %v %v", left, err)
	}
}
