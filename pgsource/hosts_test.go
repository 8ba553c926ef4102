package pgsource

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/job-publisher/reactor/internal/testkit"
)

// TestRace: the attempts begin in their order, and the first success ends the others.
func TestRace(t *testing.T) {
	type attempt struct {
		takes  time.Duration // 0: it ends only when it is cancelled
		fails  bool
		deaf   bool          // it does not notice that it is cancelled
		begins time.Duration // expected; negative: never
	}
	const ms = time.Millisecond
	for name, test := range map[string]struct {
		attempts []attempt
		used     int
		took     time.Duration
		abandons int
	}{
		"one":                       {[]attempt{{takes: 5 * ms}}, 0, 5 * ms, 0},
		"the first at once":         {[]attempt{{takes: 5 * ms}, {takes: 1 * ms, begins: -1}}, 0, 5 * ms, 0},
		"the first is silent":       {[]attempt{{}, {takes: 5 * ms, begins: headStart}}, 1, headStart + 5*ms, 0},
		"the first fails":           {[]attempt{{takes: 3 * ms, fails: true}, {takes: 5 * ms, begins: 3 * ms}}, 1, 8 * ms, 0},
		"silent, read-only, usable": {[]attempt{{}, {takes: 2 * ms, fails: true, begins: headStart}, {takes: 5 * ms, begins: headStart + 2*ms}}, 2, headStart + 7*ms, 0},
		"two are silent":            {[]attempt{{}, {begins: headStart}, {takes: 5 * ms, begins: 2 * headStart}}, 2, 2*headStart + 5*ms, 0},
		"the first is slow":         {[]attempt{{takes: 2 * headStart}, {begins: headStart}}, 0, 2 * headStart, 0},
		"both succeed":              {[]attempt{{takes: headStart + 9*ms, deaf: true}, {takes: 5 * ms, begins: headStart}}, 1, headStart + 9*ms, 1},
		"all fail":                  {[]attempt{{takes: 3 * ms, fails: true}, {takes: headStart, fails: true, begins: 3 * ms}}, -1, headStart + 3*ms, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				begins := make([]atomic.Int64, len(test.attempts))
				attempts := make([]func(context.Context) (int, error), len(test.attempts))
				for i, a := range test.attempts {
					begins[i].Store(-1)
					attempts[i] = func(ctx context.Context) (int, error) {
						begins[i].Store(int64(time.Since(began)))
						end, cancelled := time.After(a.takes), ctx.Done()
						if a.takes == 0 {
							end = nil
						}
						if a.deaf {
							cancelled = nil
						}
						select {
						case <-end:
						case <-cancelled:
							return 0, ctx.Err()
						}
						if a.fails {
							return 0, fmt.Errorf("attempt %d", i)
						}
						return i + 1, nil
					}
				}
				abandons := 0
				won, used, errs := race(t.Context(), attempts, func(int) { abandons++ })
				if took := time.Since(began); used != test.used || won != test.used+1 || took != test.took || abandons != test.abandons {
					t.Errorf("used %d (%d) after %v, abandoned %d", used, won, took, abandons)
				}
				for i, a := range test.attempts {
					if at := time.Duration(begins[i].Load()); at != a.begins && (at >= 0 || a.begins >= 0) {
						t.Errorf("attempt %d began at %v, not %v", i, at, a.begins)
					}
					if used < 0 && fmt.Sprint(errs[i]) != fmt.Sprint("attempt ", i) {
						t.Errorf("attempt %d says %v", i, errs[i])
					}
				}
			})
		})
	}
}

// TestSplitHosts: what sslmode adds to a host stays with it, and each host has its own name for
// the certificate.
func TestSplitHosts(t *testing.T) {
	cfg, err := parseURL("postgres://u@one,two:5433/app?sslmode=prefer&connect_timeout=3")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, h := range splitHosts(cfg) {
		got = append(got, fmt.Sprint(h.name, " TLS ", h.cfg.TLSConfig != nil, " ", len(h.cfg.Fallbacks), " ", h.cfg.ConnectTimeout))
	}
	if want := []string{"one:5432 TLS true 1 3s", "two:5433 TLS true 1 3s"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if cfg, err = parseURL("host=/tmp user=u"); err != nil || !splitHosts(cfg)[0].socket() {
		t.Error("a folder is not taken for a socket", err)
	}
}

// TestNameMoves: a name is looked up at every connection, and the address that answers is used.
func TestNameMoves(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	database := testkit.NewDatabase(t)
	before, after := testkit.NewProxy(t, database), testkit.NewProxy(t, database)
	cfg, err := parseURL(database)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Host, cfg.ConnectTimeout = "db.example.com", dialTimeout
	var addresses []string
	cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) {
		if host != "db.example.com" || addresses == nil {
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
		return addresses, nil
	}
	var h hosts
	connects := func() {
		t.Helper()
		conn, err := h.connect(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(ctx); err != nil {
			t.Error(err)
		}
	}
	addresses = []string{before.Addr()}
	connects()
	addresses = []string{after.Addr()}
	connects()
	if before.Accepted() != 1 || after.Accepted() != 1 {
		t.Errorf("%d and %d connections", before.Accepted(), after.Accepted())
	}
	// The first of its addresses is silent, the second refuses.
	before.Stall()
	gone := testkit.NewProxy(t, database)
	gone.Refuse()
	addresses = []string{before.Addr(), gone.Addr(), after.Addr()}
	connects()
	if before.Accepted() != 2 || after.Accepted() != 2 {
		t.Errorf("%d and %d connections", before.Accepted(), after.Accepted())
	}
	addresses = nil
	if _, err := h.connect(ctx, cfg); !strings.Contains(explain(err).Error(), "cannot find the database at db.example.com:") {
		t.Error(err)
	}
	addresses = []string{}
	if _, err := h.connect(ctx, cfg); !strings.Contains(explain(err).Error(), "no address") {
		t.Error(err)
	}
}

// TestHostsInErrors: one line says of each host what is wrong with it.
func TestHostsInErrors(t *testing.T) {
	list := []host{{name: "db1:5432"}, {name: "db2:5432"}, {name: "db3:5432"}}
	refuses := &pgconn.PgError{SeverityUnlocalized: "FATAL", Code: pgerrcode.InvalidPassword, Message: "password authentication failed"}
	err := explain(&hostsError{list, []error{errReadOnly, context.DeadlineExceeded, refuses}})
	want := `no host of the database URL can be used: db1:5432 is read-only; db2:5432 does not answer; db3:5432 says "password authentication failed" (SQLSTATE 28P01): one of them must be running, take writes and accept us`
	if err.Error() != want || !errors.Is(err, errReadOnly) || sqlState(err) != pgerrcode.InvalidPassword {
		t.Error(err)
	}
	err = explain(&hostsError{list[:2], []error{errReadOnly, errReadOnly}})
	if err.Error() != errReadOnly.Error() {
		t.Error(err)
	}
	if err := mostTelling([]error{context.DeadlineExceeded, errors.New("refused"), errReadOnly, refuses}); err != error(refuses) {
		t.Error(err)
	}
}

// TestLastHostFirst: the host that was good last is tried first, so that a silent one before it
// delays no further connection.
func TestLastHostFirst(t *testing.T) {
	cfg, err := parseURL("postgres://u@one,two,three/app?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	cfg.ConnectTimeout = dialTimeout
	cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	var (
		h     hosts
		tried []string
		good  string
	)
	connects := func(want ...string) {
		t.Helper()
		tried = nil
		_, err := connectAny(t.Context(), &h, cfg, opener[string]{
			open: func(_ context.Context, cfg *pgx.ConnConfig) (string, error) {
				tried = append(tried, cfg.Host)
				if cfg.Host != good {
					return "", errReadOnly
				}
				return cfg.Host, nil
			},
			chosen: func(string) error { return nil },
		})
		if !slices.Equal(tried, want) || (err == nil) != (good != "none") {
			t.Errorf("tried %q (%v), not %q", tried, err, want)
		}
	}
	good = "three"
	connects("one", "two", "three")
	connects("three")
	good = "two"
	connects("three", "one", "two")
	connects("two")
	good = "none"
	connects("two", "one", "three")
}

// TestOnlyTheChosenCounts: of two hosts that accept us, one is used; the other, which comes late, has no consequences. One that
// is refused at the last moment is not used, and not tried first.
func TestOnlyTheChosenCounts(t *testing.T) {
	cfg, err := parseURL("postgres://u@slow,quick/app?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	cfg.ConnectTimeout = dialTimeout
	cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	synctest.Test(t, func(t *testing.T) {
		for _, refuses := range []error{nil, errFailedOver} {
			var h hosts
			var chosen, abandoned []string
			conn, err := connectAny(t.Context(), &h, cfg, opener[string]{
				open: func(_ context.Context, cfg *pgx.ConnConfig) (string, error) {
					if cfg.Host == "slow" {
						time.Sleep(2 * headStart) // it does not notice that it has lost
					}
					return cfg.Host, nil
				},
				chosen: func(conn string) error {
					chosen = append(chosen, conn)
					return refuses
				},
				abandon: func(conn string) { abandoned = append(abandoned, conn) },
			})
			if !slices.Equal(chosen, []string{"quick"}) || !errors.Is(err, refuses) {
				t.Errorf("%q were chosen, and %v", chosen, err)
			}
			if refuses == nil && (conn != "quick" || !slices.Equal(abandoned, []string{"slow"})) {
				t.Errorf("%q is used, %q are closed", conn, abandoned)
			}
			if refuses != nil && (!slices.Equal(abandoned, []string{"slow", "quick"}) || h.last.Load() != nil) {
				t.Errorf("%q are closed, and %v is tried first", abandoned, h.last.Load())
			}
		}
	})
}
