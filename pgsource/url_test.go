package pgsource

import (
	"strings"
	"testing"
)

// TestParseURL: a string that can be read in an unintended way is refused, because errors would
// show a part of it as a host, a database or a setting. "sesame" is a part of a password.
func TestParseURL(t *testing.T) {
	for _, good := range []string{
		"postgres://user:pass%40word%2F@host:5432/app", "postgresql://host/app?sslmode=disable&application_name=a@b",
		"postgres://user@/app?host=/tmp&port=5432", "postgres://user@%2Ftmp:5432/app", "postgres://one:1,two:2/app",
		"postgres://user:a%23b@host/app%40x", "host=/tmp user=app password='a@b/c?d'", "postgres://h/x?my.setting=1&plan_cache_mode=auto",
	} {
		if _, err := parseURL(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "postgres://u:12@sesame@host/app", "postgres://u:12/sesame@host/app", "postgres://u:12?sesame@host/app?sslmode=disable",
		"postgres://u:12/sesame@host:5432/app?sslmode=disable", "postgres://u:12/@sesame@host", "postgres://u:sesame@host:port/app",
		`"postgres://u:sesame@host/app?sslmode=disable"`, "mysql://u:sesame@host/app?x=y", "jdbc:postgresql://u:sesame@host/app?x=y",
		"u:sesame@host/app?x=y", "POSTGRES://u:sesame@host/app?x=y", "host=h sesame", "postgres://u:ses%ame@host/app",
	} {
		cfg, err := parseURL(bad)
		if err == nil {
			t.Errorf("%s is taken for host %q, database %q, settings %q", bad, cfg.Host, cfg.Database, cfg.RuntimeParams)
		} else if text := err.Error(); strings.Contains(text, "sesame") || strings.Contains(text, "\n") {
			t.Errorf("%s: %s", bad, text)
		}
	}
}
