package cli

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/job-publisher/reactor/reactor/driver"
)

// The libraries' configurations and the flags say the same in two languages.

// FlagOf names the flag for each field of a Config that has one.
var FlagOf = map[string]string{
	// pgsource
	"DatabaseURL": "database-url", "Feed": "feed", "ListenURL": "listen-url", "MaxFeedWAL": "max-feed-wal", "MaxConns": "database-connections", "Name": "name", "Deployment": "deployment",
	// mqttsink
	"URL": "mqtt-url", "Username": "mqtt-username", "Password": "mqtt-password",
	// reactor
	"Delivery": "delivery", "Stage": "stage", "OnSessionLoss": "on-session-loss", "Lanes": "lanes",
	"ConsumerCount": "consumer-count", "ConsumerIndex": "consumer-index", "JobsPerRead": "jobs-per-read",
	"LoopFrequency": "loop-frequency", "MaxReads": "max-reads", "MaxPending": "max-pending", "Grace": "grace",
}

// Given turns the value of a flag into that of a field whose zero value stands for its
// default: a 0 that somebody has written is a 0, and refused where it makes no sense.
func Given[T ~int | ~int64](value T) T {
	if value == 0 {
		return -1
	}
	return value
}

// inFlags says a configuration error in terms of the flags, as they were given.
func inFlags(err error, flags []*kong.Flag, env *Environment) error {
	var bad *driver.ConfigError
	if !errors.As(err, &bad) {
		return err
	}
	for _, flag := range flags {
		if flag.Name != FlagOf[bad.Field] {
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

// flagValue is what a flag was set to; nothing if it was not.
func flagValue(flag *kong.Flag) any {
	value := flag.Target
	if value.Kind() == reflect.Pointer {
		value = value.Elem()
	}
	return value.Interface()
}

// fieldName finds words that may be fields.
var fieldName = regexp.MustCompile(`\b[A-Z][A-Za-z]+\b`)

// trimmed is the mapper of URLs, which often come out of a file, with the end of its line.
func trimmed(ctx *kong.DecodeContext, target reflect.Value) error {
	var value string
	if err := ctx.Scan.PopValueInto("string", &value); err != nil {
		return err
	}
	target.SetString(strings.TrimSpace(value))
	return nil
}
