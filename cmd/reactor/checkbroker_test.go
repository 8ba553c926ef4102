package main

import (
	"strings"
	"testing"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
)

// TestCheckBroker: the URL as an argument, by the flag and by the variable; what the delivery makes of an answer.
func TestCheckBroker(t *testing.T) {
	t.Parallel()
	url := testkit.OwnMosquitto(t, stack.MosquittoConfig{Username: "reactor", Password: "hush", ExtraLines: []string{"max_qos 1"}}).URL()
	for name, c := range map[string]struct {
		env, args []string
		code      int
		want      []string
	}{
		"exactly-once":  {nil, []string{url}, 1, []string{"✗ QoS ", "→ set --delivery to at-least-once", "✗ exactly-once", "✓ at-least-once", "reactor: there are 2 problems"}},
		"at-least-once": {[]string{"REACTOR_DELIVERY=at-least-once"}, []string{"--mqtt-url", url}, 0, []string{"! QoS ", "! exactly-once", "✓ at-least-once"}},
		"as JSON":       {[]string{"REACTOR_MQTT_URL=" + url}, []string{"--json", "--delivery", "at-most-once"}, 0, []string{`"verdict": "warning"`, `"check": "at-most-once"`}},
		"no broker":     {nil, []string{"mqtt://reactor:hush@127.0.0.1:1"}, 1, []string{"✗ broker ", "→ is the broker running"}},
		"no URL":        {nil, nil, 2, []string{"no broker is given"}},
		"a bad URL":     {nil, []string{"http://hush"}, 2, []string{"mqtt://"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, output := call(t, c.env, append([]string{"check-broker"}, c.args...)...)
			if code != c.code || strings.Contains(output, "hush") {
				t.Errorf("code %d, want %d:\n%s", code, c.code, output)
			}
			for _, want := range c.want {
				if !strings.Contains(output, want) {
					t.Errorf("no %q in:\n%s", want, output)
				}
			}
		})
	}
}

// TestDoctorAsksTheBroker: the doctor asks database and broker.
func TestDoctorAsksTheBroker(t *testing.T) {
	t.Parallel()
	code, output := call(t, nil, "doctor", "--database-url", testkit.NewDatabase(t), "--mqtt-url", testkit.OwnMosquitto(t, stack.MosquittoConfig{}).URL())
	if code != 0 || !strings.Contains(output, "✓ triggers ") || !strings.Contains(output, "✓ exactly-once ") || strings.Contains(output, "? ") {
		t.Errorf("code %d:\n%s", code, output)
	}
}
