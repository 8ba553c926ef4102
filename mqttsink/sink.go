package mqttsink

import (
	"context"
	"fmt"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Sink connects lanes to one broker. It implements driver.Sink. Its methods may be called from any
// goroutine.
type Sink struct {
	cfg    Config
	broker *broker
}

var _ driver.Sink = (*Sink)(nil)

// New checks the configuration, and reads the files that it names; a field that cannot be used is a
// *driver.ConfigError. It does not connect.
func New(cfg Config) (*Sink, error) {
	direct := cfg.Dial == nil
	s := &Sink{cfg: cfg.withDefaults()}
	var err error
	if s.broker, err = newBroker(&s.cfg, direct); err != nil {
		return nil, fmt.Errorf("mqttsink: %w", err)
	}
	return s, nil
}

// Connect implements driver.Sink. Its errors are one line that says what to check, and unwrap to
// their cause.
func (s *Sink) Connect(ctx context.Context, opts driver.ConnectOptions) (driver.Session, error) {
	return s.broker.connect(ctx, opts)
}

// CheckIdentity implements driver.Sink.
func (s *Sink) CheckIdentity(ctx context.Context, qos byte) error {
	return s.broker.checkIdentity(ctx, qos)
}
