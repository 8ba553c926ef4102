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

// parseURL parses a connection string. Its errors never repeat any part of it, which could be a
// part of a password.
//
// pgx accepts more than anybody means as a connection string. What does not begin with postgres://
// is read as key=value: a URL in quotes, or with another scheme, and with ?sslmode=… at its end,
// becomes a setting with a long name, and the server names it when it refuses it. In a URL, an @ or
// a / of a password that is not %-encoded ends the password early: then the host, or the database,
// is the rest of the password. The errors that follow show both, so such strings are refused here.
func parseURL(url string) (*pgx.ConnConfig, error) {
	if url == "" {
		// libpq would connect to any local server, which nobody intends.
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

// parameterName matches the name of a setting, with or without the prefix of an extension.
var parameterName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)*$`)

// redacted returns the reason why a connection string cannot be parsed, without the string, which
// may hold a password. So it has no cause to unwrap.
func redacted(err error) error {
	var parseErr *pgconn.ParseConfigError
	if errors.As(err, &parseErr) {
		if cause := parseErr.Unwrap(); cause != nil && !strings.Contains(cause.Error(), "://") {
			return cause
		}
	}
	return errors.New("cannot be parsed")
}
