package pgsource

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/job-publisher/reactor/internal/ratelog"
)

// What a connection string takes from files may change while we run: a password, a certificate that
// was renewed. The files are sslrootcert, sslcert, sslkey and passfile, as in libpq, and passwordFile,
// which holds nothing but the password, as secrets of containers do. They are read again for each
// connection, which costs little beside the connection itself. Connections that there are stay.

// passwordFile is the setting of a connection string that names a file with the password.
const passwordFile = "passwordfile"

// WithPasswordFile returns a connection string for this package, of which the password is in a file. The file
// holds nothing else; line breaks at its end do not count. It is read again for each connection, and
// replaces a password in the string. An empty path changes nothing.
func WithPasswordFile(connString, path string) string {
	connString = strings.TrimSpace(connString)
	switch {
	case path == "" || connString == "":
		return connString
	case !strings.HasPrefix(connString, "postgres://") && !strings.HasPrefix(connString, "postgresql://"):
		return connString + " " + passwordFile + "='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(path) + "'"
	case strings.Contains(connString, "?"):
		return connString + "&" + passwordFile + "=" + inURL(path)
	}
	return connString + "?" + passwordFile + "=" + inURL(path)
}

// inURL encodes a value for the query of a URL. PostgreSQL takes a + for itself, and not for a space.
func inURL(value string) string { return strings.ReplaceAll(url.QueryEscape(value), "+", "%20") }

// takePassword reads the file of the password, if the connection string names one. The server does not know
// that setting.
func takePassword(cfg *pgx.ConnConfig) error {
	path, given := cfg.RuntimeParams[passwordFile]
	if !given {
		return nil
	}
	delete(cfg.RuntimeParams, passwordFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("names a file of the password that cannot be read: %w", err)
	}
	password := strings.TrimRight(string(text), "\r\n")
	switch {
	case password == "":
		return errors.New("names a file of the password that is empty")
	case strings.ContainsAny(password, "\x00\r\n"):
		return errors.New("names a file of the password that has several lines: it must hold nothing but the password")
	}
	cfg.Password = password
	return nil
}

// liveFiles are what the files of one connection string said when all of them could be read last.
type liveFiles struct {
	log    *slog.Logger
	mu     sync.Mutex
	good   *pgx.ConnConfig // guarded by mu; nil: they were never read
	failed ratelog.Limiter
}

// config parses a connection string, with what its files say now. While a file cannot be used, because it is just being
// replaced, say, they say what they did before; the log says so once. The caller may change the result.
func (l *liveFiles) config(connString string) (*pgx.ConnConfig, error) {
	now, err := parseURL(strings.TrimSpace(connString))
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil && l.good == nil:
		l.good = now
	case err == nil:
		l.good = now
		l.failed.OK(l.log, "the files of the database URL can be read again")
	case l.good == nil:
		return nil, err
	default:
		l.failed.Fail(l.log, slog.LevelWarn, "a file of the database URL cannot be read; going on with what the files said before", "err", err)
	}
	return l.good.Copy(), nil
}

// current returns a configuration with what the files of its connection string say.
func (h *hosts) current(cfg *pgx.ConnConfig) *pgx.ConnConfig {
	files := h.files
	if files == nil {
		files = &liveFiles{}
	}
	now, err := files.config(cfg.ConnString())
	if err != nil {
		return cfg
	}
	one := cfg.Copy()
	delete(one.RuntimeParams, passwordFile) // of a configuration that pgx has made by itself
	one.Password, one.TLSConfig, one.Fallbacks = now.Password, now.TLSConfig, now.Fallbacks
	return one
}
