package mqttsink

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// Config says how to reach the broker. The zero value of every field but URL is its
// default.
type Config struct {
	// URL of the broker: mqtt://host:1883 (or tcp://), with TLS mqtts://host:8883 (or
	// ssl://). It may carry a user and a password, %-encoded. White space around it, like
	// the end of the line in a file, is no part of it. There is no default; those of the
	// port are 1883 and 8883.
	URL string
	// Username and Password override those of the URL. Default to them.
	Username, Password string
	// TLS is used with mqtts URLs. Defaults to the system's certificate authorities, the
	// URL's host as the server's name, and TLS 1.2 at least.
	TLS *tls.Config
	// KeepAlive is how long the broker may be silent before something is wrong: it is
	// probed a little more often, and given up after half as much again without any
	// sign of life. In whole seconds, rounded up. Shorter notices a dead connection
	// sooner, and wakes idle machines more often. The broker may shorten it. Defaults to
	// 10 s.
	KeepAlive time.Duration
	// ConnectTimeout bounds connecting, the broker's acceptance included. Defaults to
	// 10 s.
	ConnectTimeout time.Duration
	// WriteTimeout is how long the broker may refuse to read before the session ends,
	// and how long it may take to hang up after our goodbye. It is per piece of what is
	// written (writeChunk), so that a slow line is not taken for a dead one. It is also how
	// long nothing may be acknowledged by the broker's host, of what was sent or of the
	// probes of an idle connection (package sockopt): a host that is gone is given up then,
	// not after KeepAlive. Defaults to 6 s.
	WriteTimeout time.Duration
	// SessionExpiry is how long the broker keeps the state of a lane that is not
	// connected; it may choose less. Longer lets a lane resume after a longer outage,
	// and costs the broker memory for lanes that never return. In whole seconds.
	// Defaults to 24 h.
	SessionExpiry time.Duration
	// InFlight bounds the unacknowledged messages of a lane, if the broker's Receive
	// Maximum does not do so first. More hides a longer round trip, and a broker that has
	// to wait for its turn on a busy machine; fewer are to be sent again after a lost
	// connection. Defaults to 1024, and at QoS 2, of which brokers keep lists, to 384.
	InFlight int
	// Dial opens the network connection, for tests and proxies. Defaults to net.Dialer's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Logger gets what was agreed with the broker, at debug level. Errors are returned,
	// not logged. Defaults to discarding.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.URL = strings.TrimSpace(c.URL)
	setDefault(&c.KeepAlive, 10*time.Second)
	setDefault(&c.ConnectTimeout, 10*time.Second)
	setDefault(&c.WriteTimeout, 6*time.Second)
	setDefault(&c.SessionExpiry, 24*time.Hour)
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) validate() error {
	for _, d := range []struct {
		field    string
		value    time.Duration
		min, max time.Duration
	}{
		{"KeepAlive", c.KeepAlive, time.Second, 65535 * time.Second},
		{"ConnectTimeout", c.ConnectTimeout, time.Millisecond, time.Hour},
		{"WriteTimeout", c.WriteTimeout, time.Millisecond, time.Hour},
		{"SessionExpiry", c.SessionExpiry, time.Second, 1<<32*time.Second - 1},
	} {
		if d.value < d.min || d.value > d.max {
			return &driver.ConfigError{Field: d.field, Value: d.value, Problem: fmt.Sprintf("must be %v to %v", d.min, d.max)}
		}
	}
	if c.InFlight < 0 || c.InFlight > maxUint16 {
		return &driver.ConfigError{Field: "InFlight", Value: c.InFlight, Problem: fmt.Sprintf("must be 1 to %d, or 0 for the default", maxUint16)}
	}
	return nil
}

// inFlight is InFlight for a QoS.
func (c Config) inFlight(qos byte) int {
	switch {
	case c.InFlight > 0:
		return c.InFlight
	case qos == 2:
		return 384
	}
	return 1024
}

// keepAliveSeconds is KeepAlive as MQTT counts it.
func (c Config) keepAliveSeconds() uint16 {
	return uint16((c.KeepAlive + time.Second - 1) / time.Second)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
