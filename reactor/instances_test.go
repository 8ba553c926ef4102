package reactor_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// What must not grow with the number of instances.

// feedsStand waits until the instances hear of new jobs, and share the shards.
func (w *world) feedsStand(instances int) {
	w.t.Helper()
	w.sharesOf(instances)
	w.eventually("all feeds stand", "SELECT count(*) = $1 FROM reactor.instances WHERE feed = ANY ('{notify,wal}')", instances)
}

// calls counts the statements of the instances, as pg_stat_statements names them.
func (w *world) calls(like string) (n int) {
	w.t.Helper()
	if err := w.db.QueryRow(w.ctx, `SELECT coalesce(sum(calls), 0) FROM pg_stat_statements s JOIN pg_database d ON d.oid = dbid
		WHERE datname = current_database() AND query LIKE $1`, like).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// TestReadsPerInsert: whoever owns the shard of a new row reads it, and nobody else does.
func TestReadsPerInsert(t *testing.T) {
	server := testkit.OwnPostgres(t, stack.PostgresConfig{Trust: true, Settings: map[string]string{"shared_preload_libraries": "pg_stat_statements"}})
	for _, instances := range []int{1, 10} {
		for _, feed := range []pgsource.Feed{pgsource.FeedNotify, pgsource.FeedWAL} {
			t.Run(fmt.Sprintf("%d instances by %v", instances, feed), func(t *testing.T) {
				w := newWorldOn(t, server)
				t.Cleanup(func() { // the next ones use the same database
					w.db = w.connect()
					w.exec("TRUNCATE jobs; DROP EXTENSION pg_stat_statements")
					w.exec("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active")
				})
				w.feed = feed
				all := make([]*instance, instances)
				for i := range all {
					all[i] = w.start(reactor.Config{Lanes: 1})
				}
				w.feedsStand(instances)
				w.exec("CREATE EXTENSION pg_stat_statements")
				w.exec("SELECT pg_stat_statements_reset()")
				const inserts = 150
				for i := range inserts {
					w.insert(1, 0, 0)
					if i%10 == 9 { // so that hints are not read together
						if err := w.subscriber.WaitDistinct(w.ctx, i+1); err != nil {
							t.Fatal(err)
						}
					}
				}
				w.judge()
				reads := w.calls("%AS job%WHERE coalesce(NOT processed%")
				snapshots := w.calls("SELECT pg_current_snapshot()%")
				t.Logf("%d instances: %.2f reads and %.2f queries for a snapshot per insert", instances, float64(reads)/inserts, float64(snapshots)/inserts)
				// Less than one, where two inserts are read together.
				if reads < inserts/10 || float64(reads) > 1.1*inserts {
					t.Errorf("%d reads for %d inserts of a row", reads, inserts)
				}
				// Others' commits are asked about once a second.
				if most := 2*inserts + 20*instances; snapshots > most {
					t.Errorf("%d queries for a snapshot for %d inserts", snapshots, inserts)
				}
				for _, in := range all {
					in.halt(t)
				}
			})
		}
	}
}

// TestConnectionsOfIdleInstances: an idle instance holds three connections, so that ten of them
// start and work where the server allows 3.8 for each, its reserve and the test's own included. Under
// load they share what is left, and nothing is lost for it.
func TestConnectionsOfIdleInstances(t *testing.T) {
	t.Parallel()
	const instances = 10
	server := testkit.OwnPostgres(t, stack.PostgresConfig{Trust: true, Settings: map[string]string{"max_connections": fmt.Sprint(instances * 38 / 10)}})
	w := newWorldOn(t, server)
	// As an ordinary role, which may not use the server's reserve.
	w.exec("CREATE ROLE usual LOGIN; GRANT SELECT, UPDATE ON jobs TO usual; GRANT USAGE ON SCHEMA reactor TO usual; GRANT ALL ON ALL TABLES IN SCHEMA reactor TO usual")
	w.databaseURL += "&user=usual"
	if !strings.Contains(w.databaseURL, "?") {
		t.Fatalf("the URL has no parameters: %s", w.databaseURL)
	}
	for range instances {
		w.start(reactor.Config{Lanes: 1})
	}
	w.feedsStand(instances)
	// What a start has opened beyond that is closed when it has been unused for a while.
	w.eventually("each holds three connections", "SELECT count(*) <= 3 * $1 FROM pg_stat_activity WHERE application_name LIKE 'reactor-%'", instances)
	w.insert(5000, 0, 0)
	w.insert(1000, 0, 2*time.Second)
	w.judge()
}

// logText is a log that can be read while it is written.
type logText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logText) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *logText) linesWith(part string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

// TestServerFillsUp: an instance that loses its connections to a full server says in a line what it
// lacks and what to do, and goes on when there is room.
func TestServerFillsUp(t *testing.T) {
	server := testkit.OwnPostgres(t, stack.PostgresConfig{Trust: true, Settings: map[string]string{"max_connections": "20"}})
	w := newWorldOn(t, server)
	w.exec("CREATE ROLE usual LOGIN; GRANT SELECT, UPDATE ON jobs TO usual; GRANT USAGE ON SCHEMA reactor TO usual; GRANT ALL ON ALL TABLES IN SCHEMA reactor TO usual")
	var log logText
	owner := w.databaseURL
	w.databaseURL += "&user=usual"
	w.start(reactor.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	w.feedsStand(1)
	// An application takes every connection that is left, and those of the instance.
	greedy, stop := context.WithCancel(w.ctx)
	defer stop()
	var held []*pgx.Conn
	for fill := true; fill; {
		for range 30 {
			if conn, err := pgx.Connect(greedy, w.databaseURL); err == nil {
				held = append(held, conn)
			}
		}
		w.exec("SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE application_name LIKE 'reactor-%'")
		for range 10 {
			if conn, err := pgx.Connect(greedy, w.databaseURL); err == nil {
				held = append(held, conn)
			}
		}
		fill = w.count("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'reactor-%'") > 0
	}
	const remedy = "raise max_connections"
	for log.linesWith(remedy) == 0 {
		select {
		case <-w.ctx.Done():
			t.Fatalf("it does not say what it lacks:\n%s", log.text.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
	for _, conn := range held {
		conn.Close(greedy)
	}
	w.databaseURL = owner
	w.insert(100, 0, 0)
	w.judge()
	if n := log.linesWith(remedy); n > 20 {
		t.Errorf("it says so in %d lines", n)
	}
}

func (w *world) count(query string, args ...any) (n int) {
	w.t.Helper()
	if err := w.db.QueryRow(w.ctx, query, args...).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}
