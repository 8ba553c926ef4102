package mqttsink

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/job-publisher/reactor/reactor/driver"
)

// broker is the address and the credentials of the broker.
type broker struct {
	address            string // host:port, also for errors
	host               string
	secure             bool
	username, password string // "": none, because no broker accepts an empty one
}

// errURL does not contain the URL, which may hold a password: a password that is not encoded can be
// read as any part of the URL.
var errURL = badURL("is not one of a broker: write mqtt://user:password@host:1883, with special characters in user and password %-encoded")

func badURL(problem string) error { return &driver.ConfigError{Field: "URL", Problem: problem} }

// parseBroker reads the URL, and the fields that override parts of it.
func parseBroker(c Config) (broker, error) {
	if strings.TrimSpace(c.URL) == "" {
		return broker{}, badURL("is empty: give one such as mqtt://user:password@host:1883")
	}
	u, err := url.Parse(strings.TrimSpace(c.URL)) // a file ends with a line break
	// With a second @, mqtt://user:a@b@host, the password could end at either.
	if err != nil || !isHost(u.Hostname()) || strings.Count(c.URL, "@") > 1 {
		return broker{}, errURL
	}
	b := broker{host: u.Hostname(), username: c.Username, password: c.Password}
	port := "1883"
	switch u.Scheme {
	case "mqtt", "tcp":
	case "mqtts", "ssl", "tls":
		b.secure, port = true, "8883"
	case "ws", "wss":
		return broker{}, badURL("begins with " + u.Scheme + "://, but MQTT over WebSocket is not supported: use the broker's TCP port, mqtt://host:1883, or with TLS mqtts://host:8883")
	default:
		return broker{}, badURL("must begin with mqtt:// or mqtts://")
	}
	// mqtt://user:12#34@host is a valid URL, of a host named user and its port 12.
	if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return broker{}, errURL
	}
	if u.Port() != "" {
		port = u.Port()
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > maxUint16 {
		return broker{}, badURL("has a port that is not in 1 to 65535")
	}
	b.address = net.JoinHostPort(b.host, port)
	if u.User != nil && b.username == "" {
		b.username = u.User.Username()
	}
	if password, ok := u.User.Password(); ok && b.password == "" {
		b.password = password
	}
	switch {
	case len(b.username) > maxUint16:
		return broker{}, &driver.ConfigError{Field: "Username", Problem: fmt.Sprintf("has %d bytes, MQTT's limit is %d", len(b.username), maxUint16)}
	case !utf8.ValidString(b.username) || strings.ContainsFunc(b.username, unicode.IsControl):
		// A broker closes the connection because of it, which would look like another cause.
		return broker{}, &driver.ConfigError{Field: "Username", Problem: "has a control character in it, or is not UTF-8: MQTT allows neither"}
	case len(b.password) > maxUint16:
		return broker{}, &driver.ConfigError{Field: "Password", Problem: fmt.Sprintf("has %d bytes, MQTT's limit is %d", len(b.password), maxUint16)}
	}
	return b, nil
}

// isHost reports whether a host can be one: package url takes user:password, without a host, for one whose name
// has a colon. An address of IPv6 has colons, too.
func isHost(name string) bool {
	if strings.Contains(name, ":") {
		_, err := netip.ParseAddr(name)
		return err == nil
	}
	return name != "" && !strings.ContainsAny(name, "[]")
}
