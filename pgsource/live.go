package pgsource

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"
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

// current returns a configuration with what the files of its connection string say now. A file that
// cannot be used, because it is just being replaced, say, leaves what they said at the start.
func current(cfg *pgx.ConnConfig) *pgx.ConnConfig {
	now, err := parseURL(strings.TrimSpace(cfg.ConnString()))
	if err != nil {
		return cfg
	}
	one := cfg.Copy()
	delete(one.RuntimeParams, passwordFile) // of a configuration that pgx has made by itself
	one.Password, one.TLSConfig, one.Fallbacks = now.Password, now.TLSConfig, now.Fallbacks
	return one
}
