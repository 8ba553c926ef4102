package mqttsink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Sink connects lanes to a broker, or to one of several (choice). It implements driver.Sink. Its
// methods may be called from any goroutine.
type Sink struct {
	cfg    Config
	choice *choice
}

var _ driver.Sink = (*Sink)(nil)

// New checks the configuration, and reads the files that it names; a field that cannot be used is a
// *driver.ConfigError. It does not connect.
func New(cfg Config) (*Sink, error) {
	direct := cfg.Dial == nil
	s := &Sink{cfg: cfg.withDefaults()}
	brokers, err := newBrokers(&s.cfg, direct)
	if err != nil {
		return nil, fmt.Errorf("mqttsink: %w", err)
	}
	s.choice = newChoice(brokers, s.cfg.FailoverAfter, s.cfg.Logger)
	for _, b := range brokers {
		b.choice = s.choice
	}
	return s, nil
}

// Connect implements driver.Sink. Its errors are one line that says what to check, and unwrap to
// their cause.
//
// Each call makes one attempt, at the broker in use; the pauses between attempts are the caller's.
// Before any broker has accepted a session it tries all of them: whoever starts the program wants to
// know whether it can work.
func (s *Sink) Connect(ctx context.Context, opts driver.ConnectOptions) (driver.Session, error) {
	var failures error
	for range s.choice.brokers {
		session, err := s.attempt(ctx, opts)
		if err == nil {
			return session, nil
		}
		if failures == nil {
			failures = err
		} else if failures.Error() != err.Error() {
			failures = fmt.Errorf("%w; %w", failures, err)
		}
		if s.choice.known() || ctx.Err() != nil {
			break
		}
	}
	return nil, failures
}

// attempt connects to the broker in use, and to where it refers to.
func (s *Sink) attempt(ctx context.Context, opts driver.ConnectOptions) (driver.Session, error) {
	s.choice.ask(ctx, opts.ClientID)
	begun, chosen := time.Now(), s.choice.route(opts)
	b := chosen.to
	for hops := 0; ; hops++ {
		session, err := b.connectVia(ctx, opts, chosen.via)
		if err == nil {
			return session, nil
		}
		var redirected *redirectError
		if errors.As(err, &redirected) && hops < maxRedirects {
			if next := s.choice.meant(redirected.reference); next != nil && next != b {
				s.cfg.Logger.Debug("a broker refers to another one", "broker", b.address, "next", next.address)
				b = next
				continue
			}
		}
		if ctx.Err() == nil {
			s.choice.failed(chosen, opts.ClientID, begun)
		}
		return nil, err
	}
}

// CheckIdentity implements driver.Sink.
func (s *Sink) CheckIdentity(ctx context.Context, broker string, qos byte) error {
	b := s.choice.find(broker)
	if b == nil {
		b = s.choice.inUse()
	}
	return b.checkIdentity(ctx, qos)
}
