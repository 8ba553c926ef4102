package mqttsink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"time"
)

// Config says how to reach the broker. The zero value of every field but URL is its
// default.
type Config struct {
	// URL of the broker: mqtt://host:1883 (or tcp://), with TLS mqtts://host:8883 (or
	// ssl://). It may carry a user and a password.
	URL string
	// Username and Password override those of the URL.
	Username, Password string
	// TLS is used with mqtts URLs. Defaults to the system's certificate authorities.
	TLS *tls.Config
	// KeepAlive is how long the connection may be silent before it is probed; after
	// half as much again without an answer it is given up. In whole seconds, rounded
	// up. The broker may shorten it. Defaults to 30 s.
	KeepAlive time.Duration
	// ConnectTimeout bounds connecting, the broker's acceptance included. Defaults to
	// 10 s.
	ConnectTimeout time.Duration
	// WriteTimeout is how long the broker may refuse to read. Defaults to 10 s.
	WriteTimeout time.Duration
	// SessionExpiry is how long the broker keeps the state of a lane that is not
	// connected. In whole seconds. Defaults to 24 h.
	SessionExpiry time.Duration
	// InFlight bounds the unacknowledged messages of a lane, if the broker's Receive
	// Maximum does not do so first. Defaults to 512.
	InFlight int
	// Dial opens the network connection. Defaults to net.Dialer's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Logger defaults to discarding.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	setDefault(&c.KeepAlive, 30*time.Second)
	setDefault(&c.ConnectTimeout, 10*time.Second)
	setDefault(&c.WriteTimeout, 10*time.Second)
	setDefault(&c.SessionExpiry, 24*time.Hour)
	setDefault(&c.InFlight, 512)
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
			return fmt.Errorf("%s is %v, must be %v to %v", d.field, d.value, d.min, d.max)
		}
	}
	if c.InFlight < 1 || c.InFlight > 65535 {
		return fmt.Errorf("InFlight is %d, must be 1 to 65535", c.InFlight)
	}
	return nil
}

// broker is where to connect to, and as whom.
type broker struct {
	address            string // host:port
	secure             bool
	username, password string
	login              bool
}

// parseBroker reads the URL. Its errors never repeat it: it may hold a password.
func parseBroker(c Config) (broker, error) {
	if c.URL == "" {
		return broker{}, errors.New("URL is empty: give one such as mqtt://user:password@host:1883")
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.Hostname() == "" {
		return broker{}, errors.New("URL is not one of a broker: write mqtt://user:password@host:1883, with special characters in user and password %-encoded")
	}
	b := broker{username: c.Username, password: c.Password}
	port := "1883"
	switch u.Scheme {
	case "mqtt", "tcp":
	case "mqtts", "ssl", "tls":
		b.secure, port = true, "8883"
	default:
		return broker{}, fmt.Errorf("URL begins with %s://, must be mqtt:// or mqtts://", u.Scheme)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	b.address = net.JoinHostPort(u.Hostname(), port)
	if u.User != nil && b.username == "" {
		b.username = u.User.Username()
	}
	if password, ok := u.User.Password(); ok && b.password == "" {
		b.password = password
	}
	b.login = b.username != "" || b.password != ""
	return b, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
