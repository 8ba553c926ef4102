package cli

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/job-publisher/reactor/reactor/driver"
)

// FlagOf maps fields of the libraries' configurations to flags.
var FlagOf = map[string]string{
	// pgsource
	"DatabaseURL": "database-url", "Schema": "schema", "RolePrefix": "role-prefix", "JobsTable": "jobs-table", "Feed": "feed", "ListenURL": "listen-url", "MaxFeedWAL": "max-feed-wal", "MaxConns": "database-connections", "Name": "name", "Deployment": "deployment",
	"PartitionsAhead": "partitions-ahead", "RetainPartitions": "retain-partitions", "Retain": "retain",
	// mqttsink
	"URL": "mqtt-url", "Username": "mqtt-username", "Password": "mqtt-password", "UsernameFile": "mqtt-username-file", "PasswordFile": "mqtt-password-file",
	"FailoverAfter": "mqtt-failover-after", "CAFile": "mqtt-ca", "CertFile": "mqtt-cert", "KeyFile": "mqtt-key", "ServerName": "mqtt-server-name",
	// reactor
	"Delivery": "delivery", "Stage": "stage", "OnSessionLoss": "on-session-loss", "Lanes": "lanes",
	"ConsumerCount": "consumer-count", "ConsumerIndex": "consumer-index", "JobsPerRead": "jobs-per-read",
	"LoopFrequency": "loop-frequency", "MaxReads": "max-reads", "MaxPending": "max-pending", "Grace": "grace", "MaxLateness": "max-lateness", "CatchUpRate": "catch-up-rate",
}

// Given converts the value of a flag to the value of a field whose zero value means its default.
// A 0 that the user has given must not become the default, so it becomes -1. The library refuses
// -1, except where "nothing" is a valid choice (reactor.NoGrace).
func Given[T ~int | ~int64](value T) T {
	if value == 0 {
		return -1
	}
	return value
}

// inFlags rewrites a configuration error in terms of the flags, with the values that were given.
func inFlags(err error, flags []*kong.Flag, env *Environment) error {
	var bad *driver.ConfigError
	if !errors.As(err, &bad) {
		return err
	}
	for _, flag := range flags {
		// A command may have a flag for a field under another name, which its tag says.
		if flag.Name != FlagOf[bad.Field] && flag.Tag.Get("field") != bad.Field {
			continue
		}
		text := "--" + flag.Name
		if env.set[flag.Name] {
			text += " (from " + VariableOf(flag.Name) + ")"
		}
		if bad.Value != nil {
			text += fmt.Sprintf(" is %v,", flagValue(flag))
		}
		return Usage(errors.New(text + " " + fieldName.ReplaceAllStringFunc(InFlagTerms(bad.Problem), func(field string) string {
			if name := FlagOf[field]; name != "" {
				return "--" + name
			}
			return field
		})))
	}
	return err
}

// flagValue returns the value of a flag.
func flagValue(flag *kong.Flag) any {
	value := flag.Target
	if value.Kind() == reflect.Pointer {
		value = value.Elem()
	}
	return value.Interface()
}

// fieldName matches words that may be fields.
var fieldName = regexp.MustCompile(`\b[A-Z][A-Za-z]+\b`)

// trimmed is the mapper of URLs. It removes white space, because a URL from a file often ends
// with a line break.
func trimmed(ctx *kong.DecodeContext, target reflect.Value) error {
	var value string
	if err := ctx.Scan.PopValueInto("string", &value); err != nil {
		return err
	}
	target.SetString(strings.TrimSpace(value))
	return nil
}

// duration is the mapper of durations. Its error says what they look like.
func duration(ctx *kong.DecodeContext, target reflect.Value) error {
	var value string
	if err := ctx.Scan.PopValueInto("duration", &value); err != nil {
		return err
	}
	d, err := time.ParseDuration(value)
	if err != nil {
		return fmt.Errorf("%q is no duration: use for example 1.5s, 10m or 36h; a week is 168h", value)
	}
	target.SetInt(int64(d))
	return nil
}
