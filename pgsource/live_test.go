package pgsource

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
)

// TestPasswordFile: a password that changes in its file is in use from the next connection on, of a
// configuration that was made before.
func TestPasswordFile(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := testkit.OwnPostgres(t, stack.PostgresConfig{})
	admin, err := pgx.Connect(ctx, server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.WithoutCancel(ctx))
	change := func(password string) {
		if _, err := admin.Exec(ctx, "ALTER ROLE user_of_file PASSWORD '"+password+"'"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := admin.Exec(ctx, "CREATE ROLE user_of_file LOGIN"); err != nil {
		t.Fatal(err)
	}
	change("first")
	// A path with characters that mean something in a connection string.
	file := filepath.Join(t.TempDir(), `a&b='c\d @%`)
	testkit.WriteFile(t, file, []byte("first\n"))
	bare, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	bare.User = url.User("user_of_file")
	query := bare.Query()
	query.Set("application_name", "app")
	withSettings := *bare
	withSettings.RawQuery = query.Encode()
	for name, from := range map[string]string{
		"URL": bare.String(), "URL with settings": withSettings.String(),
		"words": "host=127.0.0.1 port=" + bare.Port() + " user=user_of_file dbname=postgres",
	} {
		change("first")
		testkit.WriteFile(t, file, []byte("first\n"))
		cfg, err := parseURL(WithPasswordFile(from, file))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var log strings.Builder
		h := &hosts{files: &liveFiles{log: slog.New(slog.NewTextHandler(&log, nil))}}
		connects := func(when string) {
			t.Helper()
			conn, err := h.connect(ctx, cfg)
			if err != nil {
				t.Errorf("%s, %s: %v", name, when, err)
				return
			}
			if err := conn.Close(ctx); err != nil {
				t.Error(err)
			}
		}
		connects("at the start")
		change("second")
		testkit.WriteFile(t, file, []byte("second"))
		connects("the password was changed")
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		connects("the file has gone")
		connects("the file is still gone")
		testkit.WriteFile(t, file, nil)
		connects("the file is empty")
		change("third")
		testkit.WriteFile(t, file, []byte("third"))
		connects("the file is there again")
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 3 || !strings.Contains(lines[0], "cannot be read: open") || !strings.Contains(lines[1], "is empty") || !strings.Contains(lines[2], "again") {
			t.Errorf("%s: it logs %q", name, lines)
		}
	}
}

// TestPasswordFileRefused: each in one line, with the path and without any content.
func TestPasswordFileRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for content, want := range map[string]string{"": "is empty", "\n": "is empty", "sesame\nsecond": "several lines", "-": "cannot be read"} {
		file := filepath.Join(dir, "password")
		testkit.WriteFile(t, file, []byte(content))
		if content == "-" {
			file += ".missing"
		}
		_, err := New(Config{DatabaseURL: WithPasswordFile("postgres://u@host/app", file)})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "sesame") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want %q", content, err, want)
		}
	}
	if got := WithPasswordFile(" postgres://u@host/app\n", ""); got != "postgres://u@host/app" {
		t.Errorf("without a file: %q", got)
	}
}

// TestTLS: certificates are verified as sslmode asks, what is wrong with one is said in a line with the
// remedy, and renewed files are in use from the next connection on.
func TestTLS(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := testkit.OwnPostgres(t, stack.PostgresConfig{Trust: true})
	one, other := testkit.NewAuthority(t), testkit.NewAuthority(t)
	at, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	connect := func(cfg *pgx.ConnConfig) (encrypted bool, err error) {
		conn, err := new(hosts).connect(ctx, cfg)
		if err != nil {
			return false, explain(err)
		}
		defer conn.Close(context.WithoutCancel(ctx))
		err = conn.QueryRow(ctx, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").Scan(&encrypted)
		return encrypted, err
	}
	config := func(settings string) *pgx.ConnConfig {
		t.Helper()
		cfg, err := parseURL("postgres://" + at.User.String() + "@127.0.0.1:" + at.Port() + "/postgres?" + settings)
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	refuses := func(what, settings, want string) {
		t.Helper()
		_, err := connect(config(settings))
		var done *explainedError
		if !errors.As(err, &done) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want a line with %q", what, err, want)
		}
	}
	use := func(c testkit.Certificate) {
		t.Helper()
		if err := server.UseTLS(ctx, c.CertFile, c.KeyFile); err != nil {
			t.Fatal(err)
		}
	}

	refuses("a server without TLS", "sslmode=require", "switch ssl on at the server")
	if encrypted, err := connect(config("sslmode=prefer")); err != nil || encrypted {
		t.Errorf("prefer, and a server without TLS: encrypted %t, %v", encrypted, err)
	}

	use(one.Issue(t, "127.0.0.1"))
	ca := filepath.Join(t.TempDir(), "ca.pem")
	pem, err := os.ReadFile(one.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	testkit.WriteFile(t, ca, pem)
	full := config("sslmode=verify-full&sslrootcert=" + url.QueryEscape(ca))
	for name, cfg := range map[string]*pgx.ConnConfig{
		"prefer": config("sslmode=prefer"), "require": config("sslmode=require"), "verify-full": full,
		"verify-ca": config("sslmode=verify-ca&sslrootcert=" + url.QueryEscape(ca)),
	} {
		if encrypted, err := connect(cfg); err != nil || !encrypted {
			t.Errorf("%s: encrypted %t, %v", name, encrypted, err)
		}
	}
	refuses("an authority of somebody else", "sslmode=verify-full&sslrootcert="+url.QueryEscape(other.CAFile), "sslrootcert=FILE")
	refuses("no authority", "sslmode=verify-full", "sslrootcert=FILE")

	use(one.Issue(t, "db.example"))
	refuses("a certificate for another name", "sslmode=verify-full&sslrootcert="+url.QueryEscape(ca), "is for another name")
	if _, err := connect(config("sslmode=verify-ca&sslrootcert=" + url.QueryEscape(ca))); err != nil {
		t.Errorf("verify-ca, and another name: %v", err)
	}
	use(one.IssueUntil(t, time.Now().Add(-time.Minute), "127.0.0.1"))
	refuses("an expired certificate", "sslmode=verify-full&sslrootcert="+url.QueryEscape(ca), "renew it on the server")

	// The server gets a certificate of another authority, and our file is renewed.
	use(other.Issue(t, "127.0.0.1"))
	if _, err := connect(full); err == nil {
		t.Error("a new authority that our file does not have yet is accepted")
	}
	if pem, err = os.ReadFile(other.CAFile); err != nil {
		t.Fatal(err)
	}
	testkit.WriteFile(t, ca, pem)
	if encrypted, err := connect(full); err != nil || !encrypted {
		t.Errorf("the file was renewed: encrypted %t, %v", encrypted, err)
	}
}
