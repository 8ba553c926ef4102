package mqttsink

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

func TestConfigBounds(t *testing.T) {
	if s, err := New(Config{URL: " mqtt://broker\r\n"}); err != nil || s.choice.brokers[0].address != "broker:1883" {
		t.Errorf("with the end of a line: %+v, %v", s, err)
	}
	const good = "mqtt://broker"
	for field, configs := range map[string][]Config{
		"KeepAlive":      {{URL: good, KeepAlive: -1}, {URL: good, KeepAlive: 65536 * time.Second}},
		"ConnectTimeout": {{URL: good, ConnectTimeout: 1}, {URL: good, ConnectTimeout: math.MaxInt64}},
		"WriteTimeout":   {{URL: good, WriteTimeout: -1}},
		"SessionExpiry":  {{URL: good, SessionExpiry: 1}, {URL: good, SessionExpiry: math.MaxInt64}},
		"InFlight":       {{URL: good, InFlight: -1}, {URL: good, InFlight: 65536}},
	} {
		for _, c := range configs {
			_, err := New(c)
			var bad *driver.ConfigError
			if !errors.As(err, &bad) || bad.Field != field || bad.Value == nil {
				t.Errorf("%+v: the error is %v, want one about %s", c, err, field)
			}
		}
	}
}

// TestAmbiguousURL: with two @ nobody knows where the password ends, and a guess would send a part of it to
// a name server.
func TestAmbiguousURL(t *testing.T) {
	for _, url := range []string{"mqtt://a:b@c@d", "mqtts://a@b:c@d:8883", "mqtt://a:b@c/@d"} {
		if _, err := New(Config{URL: url}); !errors.Is(err, errURL) {
			t.Errorf("%s: %v", url, err)
		}
	}
	if s, err := New(Config{URL: "mqtt://a:b%40c@d"}); err != nil || s.choice.brokers[0].login.password != "b@c" || s.choice.brokers[0].host != "d" {
		t.Errorf("with an encoded @: %+v, %v", s, err)
	}
}
