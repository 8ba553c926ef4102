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

// Config says how to reach the broker. The zero value of every field but URL means its default. New
// refuses a value out of range with a *driver.ConfigError that names the field.
type Config struct {
	// URL of the broker: mqtt://host:1883 (or tcp://), with TLS mqtts://host:8883 (or ssl://,
	// tls://), in a WebSocket ws://host:80/mqtt, or with TLS wss://host:443/mqtt. It may contain a
	// user and a password, %-encoded. White space around it, such as the end of a line from a file,
	// is ignored. It has no default. Port and path default to those shown.
	//
	// Several URLs, separated by commas, are those of a primary and its standbys, or of the nodes of
	// a cluster, in the order in which they are preferred. All sessions go to one of them.
	URL string
	// Username and Password override those of the URL. They default to those.
	Username, Password string
	// UsernameFile and PasswordFile are files that contain the user and the password, and nothing
	// else but a line end. They are read at each connect: a changed password needs no restart. They
	// override those of the URL. Default to none.
	UsernameFile, PasswordFile string
	// FailoverAfter is how long the lanes try the broker that they were connected to before they try
	// the next of several. A longer time gives a broker the chance to restart with its sessions,
	// without which the outcome of the messages in flight is unknown; a shorter one ends an outage
	// sooner. It counts from the first attempt that failed, when no lane is connected; from the
	// first session that ended without an answer to a message, while no message is answered; or from
	// the first ping that was answered, and none of the messages before it, then for 10 s at least. In
	// the last two cases the broker is left only if a client of our own cannot work with it either. At
	// most 24 h.
	// Defaults to 10 s; AtOnce (any negative value) means that they try the next at once.
	FailoverAfter time.Duration
	// TLS is the configuration for mqtts and wss URLs. Defaults to the system's certificate
	// authorities, the URL's host as the server name, and at least TLS 1.2. The four fields below
	// override it.
	TLS *tls.Config
	// CAFile is a file with the certificates, in PEM format, of the authorities that may have signed
	// the broker's certificate. It and the two below are read at each connect: if they change to
	// something that cannot be used, what they said before stays in use. Defaults to the system's
	// authorities.
	CAFile string
	// CertFile and KeyFile are files with a certificate of ours and its private key, in PEM format,
	// for a broker that wants one. Default to none.
	CertFile, KeyFile string
	// ServerName is the name that the broker's certificate has to have. Defaults to the URL's host.
	ServerName string
	// KeepAlive is how long the broker may send nothing before it is asked for a sign of life. It
	// is pinged a little more often, and the session ends after one and a half times as long
	// without any packet. Whole seconds, rounded up. A shorter value notices a dead connection
	// sooner, and wakes idle machines more often. The broker may shorten it. 1 s to 65,535 s.
	// Defaults to 10 s.
	KeepAlive time.Duration
	// ConnectTimeout bounds connecting, including the broker's answer. 1 ms to 1 h. Defaults to 10
	// s.
	ConnectTimeout time.Duration
	// WriteTimeout is how long the broker may read nothing before the session ends, and how long it
	// may take to close the connection after our DISCONNECT. It applies to each piece of what is
	// written (writeChunk), so that a slow line does not count as a dead one. It is also how long
	// the broker's host may acknowledge nothing of what was sent, or of the probes of an idle
	// connection (package sockopt): a host that is gone is noticed after that time, and not after
	// KeepAlive. 1 ms to 1 h. Defaults to 6 s.
	WriteTimeout time.Duration
	// SessionExpiry is how long the broker keeps the state of a lane that is not connected; the
	// broker may choose a shorter time. A longer value lets a lane resume after a longer outage,
	// and costs the broker memory for lanes that never return. Whole seconds. 1 s to 2³²-1 s.
	// Defaults to 24 h.
	SessionExpiry time.Duration
	// InFlight bounds the unacknowledged messages of a lane, unless the broker's Receive Maximum is
	// lower. A larger value hides a longer round trip, and delays of a broker on a busy machine;
	// with a smaller one fewer messages are sent again after a lost connection. 1 to 65,535.
	// Defaults to 1024, and at QoS 2 to 384, because brokers keep lists of those messages.
	InFlight int
	// Dial opens the network connection, for example through a proxy. Defaults to that of a
	// net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Logger receives what was agreed with the broker, at debug level, and a warning if the broker
	// keeps sessions for a short time only. Errors are returned, not logged. Defaults to
	// discarding.
	Logger *slog.Logger
}

// AtOnce is a Config.FailoverAfter without patience.
const AtOnce time.Duration = -1

func (c Config) withDefaults() Config {
	c.URL = strings.TrimSpace(c.URL)
	setDefault(&c.FailoverAfter, 10*time.Second)
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
	if c.FailoverAfter < AtOnce || c.FailoverAfter > 24*time.Hour {
		return &driver.ConfigError{Field: "FailoverAfter", Value: c.FailoverAfter, Problem: "must be 0s to 24h"}
	}
	if c.InFlight < 0 || c.InFlight > maxUint16 {
		return &driver.ConfigError{Field: "InFlight", Value: c.InFlight, Problem: fmt.Sprintf("must be 1 to %d, or 0 for the default", maxUint16)}
	}
	return nil
}

// inFlight is Config.InFlight, or its default for a QoS.
func (c Config) inFlight(qos byte) int {
	switch {
	case c.InFlight > 0:
		return c.InFlight
	case qos == 2:
		return 384
	}
	return 1024
}

// keepAliveSeconds is Config.KeepAlive in the unit of MQTT.
func (c Config) keepAliveSeconds() uint16 {
	return uint16((c.KeepAlive + time.Second - 1) / time.Second)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
