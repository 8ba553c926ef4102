package cli

import (
	"strings"
	"testing"
)

// TestErrorsHideSecrets: an error about the command line repeats no password that stands in the wrong place there, and
// repeats everything else.
func TestErrorsHideSecrets(t *testing.T) {
	const url = "postgres://u:12 se\"same@h/x"
	env := NewEnvironment([]string{"REACTOR_LANES=mqtt://u:sesame@h\n"})
	for text, args := range map[string][]string{
		"unexpected argument " + url: {"run", url},
		"unexpected argument sesame": {"run", "--mqtt-password", "my", "sesame"},
		"unexpected argument  s":     {"run", "--database-url=postgres://u:12", "sesame"},
		`--lanes: expected a valid 64 bit int but got "postgres://u:12 se\"same@h/x"`:   {"run", "--lanes=" + url},
		`--lanes: expected a valid 64 bit int but got "mqtt://u:sesame@h" (from LANES)`: {"run"},
	} {
		if got := withoutSecrets(text, args, env); strings.Contains(got, "same") || got == "" {
			t.Errorf("%s: %s", text, got)
		}
	}
	for text, args := range map[string][]string{
		"unexpected argument now":                                  {"run", "now"},
		"--lanes: expected a valid 64 bit int but got \"seven\"":   {"run", "--lanes=seven"},
		"cannot send to http://collector:4318: connection refused": {"run", "--otlp-endpoint=http://collector:4318"},
	} {
		if got := withoutSecrets(text, args, env); got != text {
			t.Errorf("%s: %s", text, got)
		}
	}
}
