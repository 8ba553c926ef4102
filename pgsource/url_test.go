package pgsource

import (
	"fmt"
	"strings"
	"testing"

	"github.com/job-publisher/reactor/internal/testkit"
)

// TestParseURL: a string that can be read in an unintended way is refused, because errors would
// show a part of it as a host, a port, a database or a setting. "sesame" is a part of a password.
func TestParseURL(t *testing.T) {
	for _, good := range []string{
		"postgres://user:pass%40word%2F@host:5432/app", "postgresql://host/app?sslmode=disable&application_name=a@b",
		"postgres://user@/app?host=/tmp&port=5432", "postgres://user@%2Ftmp:5432/app", "postgres://one:1,two:2/app",
		"postgres://user:a%23b@host/app%40x", "host=/tmp user=app password='a@b/c?d'", "postgres://h/x?my.setting=1&plan_cache_mode=auto",
		"postgres://user:a%3Fb@host:1/app?application_name=a%40b", "postgres:///app?host=/tmp", "postgres://user:pw@[::1]:5432/app?sslmode=disable",
	} {
		if _, err := parseURL(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "postgres://u:12@sesame@host/app", "postgres://u:12/sesame@host/app", "postgres://u:12?sesame@host/app?sslmode=disable",
		"postgres://u:12/sesame@host:5432/app?sslmode=disable", "postgres://u:12/@sesame@host", "postgres://u:sesame@host:port/app",
		"postgres://u:12/sesame?c=d@host", "postgres://u:12/ab?sesame=d@host", "postgres://u:12/ab?c=sesame@host/app", "postgres://u:12?sslmode=sesame@host/app",
		"postgres://u:12@se/sesame?c=d@host/app", "postgres://u:12@sesame/ab?c=d@host/app", "postgres://u:sesame#34@host/app", "postgres://u:12#sesame@host/app",
		"postgres://u:12/ab?port=sesame@host", "postgres://u:12?connect_timeout=sesame&x=y@host", "postgres://u:12/ab?sslrootcert=sesame@host",
		`"postgres://u:sesame@host/app?sslmode=disable"`, "mysql://u:sesame@host/app?x=y", "jdbc:postgresql://u:sesame@host/app?x=y",
		"u:sesame@host/app?x=y", "POSTGRES://u:sesame@host/app?x=y", "host=h sesame", "postgres://u:%sesame@host/app", "postgres://u:1%seSesame@host/app",
		"postgres://u:sesame", "postgres://u:12 sesame@host/app", "host=h password='sesame",
		"host=h password=12 port=sesame", "host=h password=12 service=sesame", "postgres://u:p@h/a?sslmode=sesame", "postgres://u:p@h/a?connect_timeout=sesame",
		"postgres://u:p@h/a?port=sesame", "postgres://u:p@h/a?min_protocol_version=sesame", "postgres://u:p@h/a?sslcertmode=sesame", "postgres://u:p@h/a?target_session_attrs=sesame",
	} {
		cfg, err := parseURL(bad)
		if err == nil {
			t.Errorf("%s is taken for host %q, database %q, settings %q", bad, cfg.Host, cfg.Database, cfg.RuntimeParams)
		} else if text := err.Error(); strings.Contains(text, "sesame") || strings.Contains(text, "\n") || strings.Contains(text, "%se") {
			t.Errorf("%s: %s", bad, text)
		}
	}
}

// TestParseURLFiles: what is wrong with a file for TLS is said, and not that the string is wrong.
func TestParseURLFiles(t *testing.T) {
	ca := testkit.NewAuthority(t)
	one, two := ca.Issue(t, "127.0.0.1"), ca.Issue(t, "127.0.0.1")
	for settings, want := range map[string]string{
		"sslrootcert=/nowhere/ca.pem":                         "open /nowhere/ca.pem: no such file",
		"sslrootcert=" + one.KeyFile:                          "sslrootcert contains no certificate",
		"sslcert=" + one.CertFile + "&sslkey=" + two.KeyFile:  "private key does not match",
		"sslcert=" + one.CertFile + "&sslkey=" + one.CertFile: "private key",
		"sslcert=" + one.CertFile + "&sslkey=/nowhere/key":    "open /nowhere/key: no such file",
	} {
		_, err := parseURL("postgres://u:sesame@host/app?sslmode=verify-full&" + settings)
		if err == nil || !strings.HasPrefix(err.Error(), "names a file that cannot be used: ") || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: %v, want a line with %q", settings, err, want)
		}
	}
}

// FuzzPassword: whatever a password contains that is not encoded, no part of it is shown. "sesame" stands in its
// middle; it may only be understood as a part of the password.
func FuzzPassword(f *testing.F) {
	for _, s := range []string{"", "12", "12/", "1@2", "?x=", "#", "%", "%zz", "&", "a=b&", "/?port=", "?sslmode=", ":", "[", "]:1/", " ", "'", "\\", "?host=h&port="} {
		f.Add(s, "")
		f.Add("12", s)
		f.Add(s, "?a=b")
	}
	f.Fuzz(func(t *testing.T, front, back string) {
		for _, form := range []string{"postgres://u:%s@host/app", "postgresql://u:%s@host:5432/app?sslmode=disable", "postgres://u:%s@one,two/app"} {
			url := fmt.Sprintf(form, front+"sesame"+back)
			cfg, err := parseURL(url)
			if err != nil {
				if strings.Contains(err.Error(), "sesame") {
					t.Errorf("%q: %v", url, err)
				}
				continue
			}
			shown := []any{cfg.Host, cfg.Port, cfg.Database, cfg.User, cfg.RuntimeParams}
			for _, other := range cfg.Fallbacks {
				shown = append(shown, other.Host, other.Port)
			}
			if strings.Contains(fmt.Sprint(shown...), "sesame") {
				t.Errorf("%q is taken for %q", url, shown)
			}
		}
	})
}
