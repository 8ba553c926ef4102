package testkit

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/job-publisher/reactor/internal/stack"
)

// prefixNumber makes the topics of each test unique, also with -count.
var prefixNumber atomic.Int64

// Broker returns the Mosquitto that the tests of this package share. Tests must not stop
// it, and must only use topics under their TopicPrefix.
func Broker(t testing.TB) *stack.Mosquitto {
	t.Helper()
	k := kitOf(t)
	broker, err := k.mosquitto.get(func() (*stack.Mosquitto, error) {
		ctx, cancel := context.WithTimeout(context.Background(), serverStartLimit)
		defer cancel()
		return stack.StartMosquitto(ctx, k.mosquittoConfig)
	})
	if err != nil {
		t.Fatalf("testkit: %v%s", err, remedy(err))
	}
	return broker
}

// OwnMosquitto starts a broker for this test only, which may stop and kill it. It is closed
// when the test ends.
func OwnMosquitto(t testing.TB, cfg stack.MosquittoConfig) *stack.Mosquitto {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = Logger(t)
	}
	ctx, cancel := context.WithTimeout(context.Background(), serverStartLimit)
	defer cancel()
	broker, err := stack.StartMosquitto(ctx, cfg)
	if err != nil {
		t.Fatalf("testkit: %v%s", err, remedy(err))
	}
	t.Cleanup(func() {
		if err := broker.Close(); err != nil {
			t.Errorf("testkit: %v", err)
		}
	})
	return broker
}

// TopicPrefix returns a topic that is unique for each call, without a final slash. It can be
// used for topics ("…/a") and filters ("…/#").
func TopicPrefix(t testing.TB) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '-':
			return r
		default:
			return '_'
		}
	}, t.Name())
	return fmt.Sprintf("test/%d/%s", prefixNumber.Add(1), name)
}
