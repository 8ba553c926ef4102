package main

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
)

// TestReadyMeansThatJobsFire: /readyz says no while due jobs are not published, whatever connections
// are established, and yes again afterwards.
func TestReadyMeansThatJobsFire(t *testing.T) {
	t.Parallel()
	server := testkit.OwnPostgres(t, stack.PostgresConfig{Trust: true})
	mosquitto := testkit.OwnMosquitto(t, stack.MosquittoConfig{})
	ctx := testContext(t)
	p := start(t, server.URL(), mosquitto.URL(), "--http-addr", "127.0.0.1:0", "--loop-frequency", "500ms")
	url := "http://" + httpAddress(t, ctx, p) + "/readyz"
	ready := func(what string, code int, problem string) {
		t.Helper()
		awaitReady(t, ctx, url, what, code, problem)
	}
	ready("at the start", http.StatusOK, "")

	db := connect(t, ctx, server.URL())
	locker := connect(t, ctx, server.URL())
	exec(t, ctx, db, "INSERT INTO jobs (topic, fire_at) SELECT 'ready', now() + interval '1 second' FROM generate_series(1, 100)")
	exec(t, ctx, locker, "BEGIN; LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
	ready("with the table locked", http.StatusServiceUnavailable, "")
	exec(t, ctx, locker, "ROLLBACK")
	ready("with the table free", http.StatusOK, "")

	if err := mosquitto.Freeze(); err != nil {
		t.Fatal(err)
	}
	exec(t, ctx, db, "INSERT INTO jobs (topic, fire_at) VALUES ('ready', now())")
	ready("with the broker frozen", http.StatusServiceUnavailable, "nothing is being published")
	if err := mosquitto.Thaw(); err != nil {
		t.Fatal(err)
	}
	ready("with the broker thawed", http.StatusOK, "")

	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	ready("without the database", http.StatusServiceUnavailable, "heartbeat")
	if err := server.Start(ctx); err != nil {
		t.Fatal(err)
	}
	ready("with the database back", http.StatusOK, "")
}

// awaitReady requests /readyz until it returns the wanted answer.
func awaitReady(t *testing.T, ctx context.Context, url, what string, code int, problem string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	begun := time.Now()
	for {
		got, body := get(t, ctx, url)
		if got == code && strings.Contains(body, problem) {
			t.Logf("%s: %d after %v", what, code, time.Since(begun).Round(time.Millisecond))
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: %d, want %d with %q in\n%s", what, got, code, problem, body)
		}
	}
}
