package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor"
)

// TestSystemd: a service manager hears when jobs are published, that the process goes on, what is wrong,
// and that a stop has begun.
func TestSystemd(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	mosquitto := testkit.OwnMosquitto(t, stack.MosquittoConfig{})
	manager := newServiceManager(t)
	p := testkit.Run(t, testkit.ProcessConfig{
		Path: testkit.Reactor(t), Args: []string{"run", "--http-addr", "off"},
		Env: []string{
			"REACTOR_DATABASE_URL=" + testkit.NewDatabase(t), "REACTOR_MQTT_URL=" + mosquitto.URL(),
			"NOTIFY_SOCKET=" + manager.path, "WATCHDOG_USEC=400000",
		},
	})
	manager.await(t, ctx, "READY=1", "WATCHDOG=1", "STATUS=publishing")
	if slices.Contains(strings.Fields(manager.heard[0]), "READY=1") {
		t.Errorf("ready before anything was connected: %q", manager.heard[0])
	}
	if err := mosquitto.Stop(); err != nil {
		t.Fatal(err)
	}
	// Without its broker the process goes on: it must not be restarted.
	manager.await(t, ctx, "READY=1", "WATCHDOG=1", "STATUS=not ready: ")
	p.Terminate(t)
	manager.await(t, ctx, "STOPPING=1")
	if code := p.Wait(t, time.Minute); code != 0 {
		t.Errorf("status %d", code)
	}
}

// TestSystemdWatchdog: a process that hangs does not say that it goes on, and its state stays one line.
func TestSystemdWatchdog(t *testing.T) {
	t.Parallel()
	var state systemdState
	for _, c := range []struct {
		what string
		r    toldInstance
		want string
	}{
		{"at the start", toldInstance{problems: []string{"no\nbroker"}}, "WATCHDOG=1\nSTATUS=not ready: no broker"},
		{"ready", toldInstance{ready: true}, "READY=1\nWATCHDOG=1\nSTATUS=publishing"},
		{"broken again", toldInstance{problems: []string{"one", "two"}}, "READY=1\nWATCHDOG=1\nSTATUS=not ready: one; two"},
		{"hanging", toldInstance{ready: true, stalls: 1}, "READY=1\nSTATUS=hanging"},
	} {
		if got := state.next(c.r); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

// toldInstance is an instance in a given state.
type toldInstance struct {
	ready    bool
	problems []string
	stalls   int
}

func (i toldInstance) Stats() reactor.Stats { return reactor.Stats{} }
func (i toldInstance) Health() reactor.Health {
	return reactor.Health{Ready: i.ready, Problems: i.problems}
}
func (i toldInstance) Stalls() []reactor.Stall { return make([]reactor.Stall, i.stalls) }

// serviceManager listens where systemd would.
type serviceManager struct {
	conn  *net.UnixConn
	path  string
	heard []string
}

func newServiceManager(t *testing.T) *serviceManager {
	t.Helper()
	// Not t.TempDir: a socket's path has 107 bytes at most.
	dir, err := os.MkdirTemp("", "notify")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "socket")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &serviceManager{conn: conn, path: path}
}

// await returns when a message has lines that begin like these.
func (m *serviceManager) await(t *testing.T, ctx context.Context, want ...string) {
	t.Helper()
	deadline, _ := ctx.Deadline()
	if err := m.conn.SetReadDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 64<<10)
	for {
		n, err := m.conn.Read(buffer)
		if err != nil {
			t.Fatalf("no message with %q: %v; heard: %q", want, err, m.heard)
		}
		m.heard = append(m.heard, string(buffer[:n]))
		got := strings.Split(string(buffer[:n]), "\n")
		if !slices.ContainsFunc(want, func(w string) bool {
			return !slices.ContainsFunc(got, func(line string) bool { return strings.HasPrefix(line, w) })
		}) {
			return
		}
	}
}
