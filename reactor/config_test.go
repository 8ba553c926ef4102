package reactor

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

func TestConfigBounds(t *testing.T) {
	for name, c := range map[string]Config{
		"defaults": {},
		"least":    {JobsPerRead: 1, LoopFrequency: time.Millisecond, Lanes: 1, MaxPending: 1024, Horizon: time.Second, Grace: NoGrace},
		"most":     {JobsPerRead: 1 << 20, LoopFrequency: longest, Lanes: 64, MaxPending: 100_000_000, Horizon: notifyHorizon, Grace: longest, ConsumerCount: 64, ConsumerIndex: 63},
	} {
		if err := c.withDefaults().validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for field, configs := range map[string][]Config{
		"Delivery":      {{Delivery: AtMostOnce + 1}},
		"OnSessionLoss": {{OnSessionLoss: Fail + 1}},
		"JobsPerRead":   {{JobsPerRead: -1}, {JobsPerRead: 1<<20 + 1}, {JobsPerRead: math.MaxInt}},
		"LoopFrequency": {{LoopFrequency: -1}, {LoopFrequency: 1}, {LoopFrequency: math.MaxInt64}},
		"ConsumerCount": {{ConsumerCount: -1}, {ConsumerCount: 65}},
		"ConsumerIndex": {{ConsumerIndex: 1}, {ConsumerCount: 3, ConsumerIndex: 3}, {ConsumerCount: 3, ConsumerIndex: -1}},
		"MaxReads":      {{MaxReads: -1}},
		"Lanes":         {{Lanes: -1}, {Lanes: 65}},
		"Horizon":       {{Horizon: -1}, {Horizon: 2 * notifyHorizon}},
		"MaxPending":    {{MaxPending: -1}, {MaxPending: 1023}, {MaxPending: math.MaxInt}},
		"Grace":         {{Grace: -2}, {Grace: math.MinInt64}, {Grace: math.MaxInt64}},
	} {
		for _, c := range configs {
			err := c.withDefaults().validate()
			var bad *driver.ConfigError
			if !errors.As(err, &bad) || bad.Field != field || bad.Value == nil || bad.Problem == "" {
				t.Errorf("%+v: the error is %v, want one about %s", c, err, field)
			}
		}
	}
}

func TestGraceOfConfig(t *testing.T) {
	for given, want := range map[time.Duration]time.Duration{0: 10 * time.Second, NoGrace: 0, time.Minute: time.Minute} {
		if got := (Config{Grace: given}).withDefaults().Grace; got != want {
			t.Errorf("a Grace of %d is %v, want %v", given, got, want)
		}
	}
}
