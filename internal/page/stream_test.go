package page

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/pgsource"
)

// served is a page on a database of its own, behind a server.
type served struct {
	*Page
	url    string
	db     *pgx.Conn
	reader string // the name by which its connections are known
}

func serve(t *testing.T, ctx context.Context, change func(*Config)) served {
	t.Helper()
	database := testkit.NewDatabase(t)
	db, err := pgx.Connect(ctx, database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close(context.Background()) })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	reader := fmt.Sprintf("page_%d", time.Now().UnixNano())
	jobs, err := pgsource.OpenJobs(database, pgsource.OpenJobsConfig{Application: reader, IdleTime: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(jobs.Close)
	p := newPage(t, func(cfg *Config) {
		cfg.Address, cfg.Jobs = listener.Addr(), jobs
		if change != nil {
			change(cfg)
		}
	})
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: p, WriteTimeout: 2 * time.Second, ReadTimeout: 2 * time.Second}}
	server.Config.RegisterOnShutdown(p.Close)
	server.Start()
	t.Cleanup(func() {
		if err := server.Config.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		server.Close()
	})
	return served{p, server.URL, db, reader}
}

// connections is how many the page has.
func (s served) connections(t *testing.T, ctx context.Context) (n int) {
	t.Helper()
	if err := s.db.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", s.reader).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// events opens a stream, and calls on for each event, until on returns false.
func (s served) events(t *testing.T, ctx context.Context, on func(event, data string) bool) {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != 200 || response.Header.Get("Content-Type") != "text/event-stream" || response.Header.Get("X-Accel-Buffering") != "no" {
		t.Fatalf("%d, %v", response.StatusCode, response.Header)
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	event := ""
	for lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			event = name
		} else if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && !on(event, data) {
			return
		}
	}
	t.Errorf("the stream has ended: %v", lines.Err())
}

// TestStream: who looks sees what is in the tables, and what changes; all who look cost one connection, and nobody none. The
// streams outlive the server's limits for short answers, and end with it.
func TestStream(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s := serve(t, ctx, nil)
	if n := s.connections(t, ctx); n != 0 {
		t.Errorf("nobody looks, and the page has %d connections", n)
	}
	const topic = `plant/<script>1</script>`
	if _, err := s.db.Exec(ctx, "INSERT INTO jobs (topic, fire_at) VALUES ($1, now() + interval '1 hour')", topic); err != nil {
		t.Fatal(err)
	}
	response, err := http.Get(s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != 200 {
		t.Fatal(response.Status)
	}
	// Several viewers, each until it has seen more than the server's limits would let it see.
	const viewers = 5
	done := make(chan struct{}, viewers)
	begun := time.Now()
	for range viewers {
		go func() {
			defer func() { done <- struct{}{} }()
			seen := false
			s.events(t, ctx, func(event, data string) bool {
				if event == "part" && strings.Contains(data, "<script") {
					t.Errorf("a topic is not escaped: %s", data)
				}
				seen = seen || strings.Contains(data, `\u0026lt;script\u0026gt;1`)
				return !seen || event != "tick" || time.Since(begun) < 3*time.Second
			})
		}()
	}
	for range viewers {
		if n := s.connections(t, ctx); n > 1 {
			t.Errorf("the page has %d connections", n)
		}
		<-done
	}
	s.Close()
	for s.connections(t, ctx) > 0 { // closed, and the server has noticed
		if ctx.Err() != nil {
			t.Fatal("the page still has a connection")
		}
	}
}
