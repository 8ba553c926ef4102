package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
)

// TestRunOverTLS: an instance publishes in a WebSocket with certificates on both sides, with the user and
// the password from files. The password is changed while it runs.
func TestRunOverTLS(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	authority := testkit.NewAuthority(t)
	server, client := authority.Issue(t, "localhost"), authority.Issue(t, "reactor")
	port, err := stack.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	mosquitto := testkit.OwnMosquitto(t, stack.MosquittoConfig{Username: "reactor", Password: "sesame", Persistence: true, ExtraLines: []string{
		fmt.Sprintf("listener %d 127.0.0.1", port), "protocol websockets", "require_certificate true",
		"cafile " + authority.CAFile, "certfile " + server.CertFile, "keyfile " + server.KeyFile,
	}})
	database := testkit.NewDatabase(t)
	db, judge := connect(t, ctx, database), subscribe(t, ctx, mosquitto.URL(), "job/#")
	user, password := filepath.Join(t.TempDir(), "user"), filepath.Join(t.TempDir(), "password")
	testkit.WriteFile(t, user, []byte("reactor\n"))
	testkit.WriteFile(t, password, []byte("sesame\n"))
	p := start(t, database, fmt.Sprintf("wss://127.0.0.1:%d/mqtt", port), "--mqtt-username-file", user, "--mqtt-password-file", password,
		"--mqtt-ca", authority.CAFile, "--mqtt-cert", client.CertFile, "--mqtt-key", client.KeyFile, "--mqtt-server-name", "localhost")
	waitLine(t, ctx, p, "running")
	if runtime.GOOS == "linux" {
		if args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.Pid())); err != nil || bytes.Contains(args, []byte("sesame")) {
			t.Errorf("the list of processes shows %q, %v", args, err)
		}
	}
	exec(t, ctx, db, `INSERT INTO jobs (topic, fire_at) VALUES ('job/first', now())`)
	if err := judge.WaitDistinct(ctx, 1); err != nil {
		t.Fatal(err)
	}
	// The file changes after the broker, which refuses the old password until then.
	if err := mosquitto.ChangePassword(ctx, "open-sesame"); err != nil {
		t.Fatal(err)
	}
	testkit.WriteFile(t, password, []byte("open-sesame\n"))
	waitLine(t, ctx, p, "connected to the broker again")
	judge = subscribe(t, ctx, mosquitto.URL(), "job/#")
	exec(t, ctx, db, `INSERT INTO jobs (topic, fire_at) VALUES ('job/second', now())`)
	if err := judge.WaitDistinct(ctx, 1); err != nil {
		t.Fatal(err)
	}
	p.Terminate(t)
	if code := p.Wait(t, time.Minute); code != 0 || strings.Contains(p.Output(), "sesame") {
		t.Errorf("exit code %d:\n%s", code, p.Output())
	}
}
