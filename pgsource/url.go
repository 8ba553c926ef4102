package pgsource

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const exampleURL = "postgres://user:password@host:5432/database"

// parseURL reads a connection string. Its errors never repeat a part of it, which may be one
// of a password.
//
// pgx takes more for a connection string than anybody means. What does not begin with
// postgres:// is read as key=value: a URL in quotes, or of another scheme, with ?sslmode=…
// at its end, is a setting with a long name, which the server refuses by that name. And in
// a URL an @ or a / of a password that is not %-encoded ends it early: the host, or the
// database, is what is left of the password. The errors that follow show both, so such
// strings go no further than this.
func parseURL(url string) (*pgx.ConnConfig, error) {
	if url == "" {
		// libpq takes it for whatever server is nearest: that is nobody's wish.
		return nil, errors.New("is empty: give a connection string such as " + exampleURL)
	}
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("is not a connection string (write %s): %w", exampleURL, redacted(err))
	}
	for name := range cfg.RuntimeParams {
		if !parameterName.MatchString(name) {
			return nil, fmt.Errorf("is not a connection string (write %s, without quotes)", exampleURL)
		}
	}
	if scheme, rest, ok := strings.Cut(url, "://"); ok && (scheme == "postgres" || scheme == "postgresql") {
		place, query, _ := strings.Cut(rest, "?")
		authority, database, _ := strings.Cut(place, "/")
		name, _, _ := strings.Cut(query, "=")
		if strings.Count(authority, "@") > 1 || strings.Contains(database+name, "@") {
			return nil, errors.New("can be read in several ways: write special characters of passwords and names %-encoded, @ as %40 and / as %2F")
		}
	}
	return cfg, nil
}

// parameterName is that of a setting, with the prefix of an extension.
var parameterName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)*$`)

// redacted keeps the reason of a malformed connection string and drops the
// string, which may hold a password.
func redacted(err error) error {
	var parseErr *pgconn.ParseConfigError
	if errors.As(err, &parseErr) {
		if cause := parseErr.Unwrap(); cause != nil && !strings.Contains(cause.Error(), "://") {
			return cause
		}
	}
	return errors.New("cannot be parsed")
}
