package pgsource

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

func TestConfigBounds(t *testing.T) {
	const good = "postgres://localhost/app"
	for name, c := range map[string]Config{
		"defaults":         {DatabaseURL: good},
		"the end of lines": {DatabaseURL: " " + good + "\r\n", ListenURL: "\n"},
		"most":             {DatabaseURL: good, MaxConns: 128, TTL: 24 * time.Hour, RetryAttempts: 1000, RetryBackoff: 24 * time.Hour},
	} {
		c = c.withDefaults()
		if err := c.validate(); err != nil || c.DatabaseURL != good || c.ListenURL != good {
			t.Errorf("%s: %v, for %q and %q", name, err, c.DatabaseURL, c.ListenURL)
		}
	}
	for field, configs := range map[string][]Config{
		"DatabaseURL":      {{}, {DatabaseURL: " \n"}, {DatabaseURL: "postgres://u:sesame@h:port/x"}, {DatabaseURL: good + "?default_query_exec_mode=exec"}},
		"ListenURL":        {{DatabaseURL: good, ListenURL: "postgres://u:sesame@h:port/x"}},
		"MaxConns":         {{DatabaseURL: good, MaxConns: -1}, {DatabaseURL: good, MaxConns: 1}, {DatabaseURL: good, MaxConns: 129}},
		"StatementTimeout": {{DatabaseURL: good, StatementTimeout: -1}, {DatabaseURL: good, StatementTimeout: math.MaxInt64}},
		"TTL":              {{DatabaseURL: good, TTL: 99 * time.Millisecond}, {DatabaseURL: good, TTL: math.MaxInt64}},
		"FeedCheck":        {{DatabaseURL: good, FeedCheck: -1}},
		"RetryBackoff":     {{DatabaseURL: good, RetryBackoff: 1}, {DatabaseURL: good, RetryBackoff: math.MaxInt64}},
		"RetryAttempts":    {{DatabaseURL: good, RetryAttempts: -1}, {DatabaseURL: good, RetryAttempts: 1001}},
	} {
		for _, c := range configs {
			_, err := New(c)
			var bad *driver.ConfigError
			if !errors.As(err, &bad) || bad.Field != field || strings.Contains(err.Error(), "sesame") {
				t.Errorf("%+v: the error is %v, want one about %s", c, err, field)
			}
		}
	}
}
