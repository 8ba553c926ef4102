package testkit

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/job-publisher/reactor/internal/stack"
)

// prefixNumber keeps the topics of tests apart, over -count as well.
var prefixNumber atomic.Int64

// Broker returns the Mosquitto shared by the tests of this package. Tests must
// leave it running, and keep to their TopicPrefix.
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

// OwnMosquitto starts a broker for this test alone, to stop and to kill. It is
// closed when the test ends.
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

// TopicPrefix returns a topic of this call's own, without a final slash, fit for
// topics ("…/a") and filters ("…/#").
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
