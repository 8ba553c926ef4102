package pgsource

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const exampleURL = "postgres://user:password@host:5432/database"

// parseURL parses a connection string. Its errors never repeat any part of it, which could be a
// part of a password, and neither do the errors of connections that are made with its result.
//
// pgx accepts more than anybody means as a connection string. What does not begin with postgres://
// is read as key=value: a URL in quotes, or with another scheme, and with ?sslmode=… at its end,
// becomes a setting with a long name, and the server names it when it refuses it. In a URL, a character
// of a password that is not %-encoded ends the password early (ambiguous): then the host, the port, the
// database or a setting is the rest of the password. The errors that follow show them, so such strings are
// refused here.
func parseURL(url string) (*pgx.ConnConfig, error) {
	if url == "" {
		// libpq would connect to any local server, which nobody intends.
		return nil, errors.New("is empty: give a connection string such as " + exampleURL)
	}
	scheme, rest, isURL := strings.Cut(url, "://")
	isURL = isURL && (scheme == "postgres" || scheme == "postgresql")
	// Before pgx sees it: what pgx reads wrongly it also reports wrongly.
	if isURL && ambiguous(rest) {
		return nil, errors.New("can be read in several ways: write special characters of passwords, names and settings %-encoded, @ as %40, / as %2F, ? as %3F and # as %23")
	}
	cfg, err := pgx.ParseConfig(url)
	if why := unusableFile(err); why != "" {
		return nil, errors.New("names a file that cannot be used: " + why)
	} else if err != nil {
		return nil, fmt.Errorf("is not a connection string (write %s): %w", exampleURL, redacted(err))
	}
	for name := range cfg.RuntimeParams {
		if !parameterName.MatchString(name) {
			return nil, fmt.Errorf("is not a connection string (write %s, without quotes)", exampleURL)
		}
	}
	return cfg, takePassword(cfg)
}

// ambiguous reports whether what stands behind the scheme of a URL could have another password than the one
// that a parser finds. A password is in front of an @, so any @ could be its end:
//
//	u:12@34@host/app           two of them
//	u:12/34@host/app           one behind a character that ends the host
//	u:12/34?56=78@host/app     the same, in the value of a setting
//	host/app?application=a@b   not this: it has no colon that a password could begin behind
//
// A # begins a fragment, which no connection string has.
func ambiguous(rest string) bool {
	if strings.Contains(rest, "#") {
		return true
	}
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	authority, behind := rest[:end], rest[end:]
	switch strings.Count(authority, "@") {
	case 0:
		return strings.Contains(authority, ":") && strings.Contains(behind, "@")
	case 1:
		return strings.Contains(behind, "@")
	}
	return true
}

// parameterName matches the name of a setting, with or without the prefix of an extension.
var parameterName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)*$`)

// reasons are the texts of pgx that say why it refuses a connection string, and repeat nothing of it.
var reasons = []string{
	"sslmode is invalid", `both "sslcert" and "sslkey" are required`, "outside range", "negative timeout", "forbidden NUL byte in connection string",
	"unterminated quoted string in connection info string", "invalid keyword/value",
}

// redacted returns the reason why a connection string cannot be parsed, without any part of the string but the
// name of a file. Other reasons of pgx repeat the port, for example, or what stands behind a %. So it has no cause
// to unwrap.
func redacted(err error) error {
	if why := unusableFile(err); why != "" {
		return errors.New(why)
	}
	if cause := parseCause(err); slices.Contains(reasons, cause) {
		return errors.New(cause)
	}
	return errors.New("cannot be parsed")
}

// unusableFile returns what is wrong with a file that a connection string names, such as the certificate of an
// authority; "": the error is not about that. The text repeats nothing of the string but the name of a file.
func unusableFile(err error) string {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Error()
	}
	cause := parseCause(err)
	if why, ok := strings.CutPrefix(cause, "unable to load cert: "); ok { // of crypto/tls, about their contents
		return "sslcert and sslkey: " + why
	}
	switch cause {
	case "unable to add CA to cert pool":
		return "sslrootcert contains no certificate in PEM format"
	case "failed to decode sslkey":
		return "sslkey contains no key in PEM format"
	case "unable to find sslpassword":
		return "sslkey is encrypted, and no sslpassword is given"
	}
	return ""
}

// parseCause is the text of the reason why pgx refuses a connection string; "": it is another error.
func parseCause(err error) string {
	var parseErr *pgconn.ParseConfigError
	if errors.As(err, &parseErr) && parseErr.Unwrap() != nil {
		return parseErr.Unwrap().Error()
	}
	return ""
}
