package mqttsink

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/job-publisher/reactor/reactor/driver"
)

// location is where a broker listens, and for what.
type location struct {
	address string // host:port, also for errors
	host    string
	secure  bool // TLS
	// webSocket is the path of the broker's WebSocket, with its query. It may hold a secret. "": MQTT
	// without one.
	webSocket string
}

// schemes are the beginnings of URLs, with the port that each means if the URL has none.
var schemes = map[string]struct {
	port              string
	secure, webSocket bool
}{
	"mqtt": {port: "1883"}, "tcp": {port: "1883"},
	"mqtts": {port: "8883", secure: true}, "ssl": {port: "8883", secure: true}, "tls": {port: "8883", secure: true},
	"ws": {port: "80", webSocket: true}, "wss": {port: "443", secure: true, webSocket: true},
}

// defaultPath is where most brokers serve their WebSocket.
const defaultPath = "/mqtt"

// errURL does not contain the URL, which may hold a password: a password that is not encoded can be
// read as any part of the URL.
var errURL = badURL("is not one of a broker: write mqtt://user:password@host:1883, with special characters in user and password %-encoded")

func badURL(problem string) error { return &driver.ConfigError{Field: "URL", Problem: problem} }

// splitURLs splits a list at the commas before a scheme: a password may contain a comma.
func splitURLs(list string) []string {
	var urls []string
	for part := range strings.SplitSeq(list, ",") {
		scheme, _, _ := strings.Cut(strings.TrimSpace(part), "://")
		if _, known := schemes[scheme]; known || len(urls) == 0 {
			urls = append(urls, part)
		} else {
			urls[len(urls)-1] += "," + part
		}
	}
	return urls
}

// parseURL reads a broker's URL.
func parseURL(text string) (location, login, error) {
	if text = strings.TrimSpace(text); text == "" { // a file ends with a line break
		return location{}, login{}, badURL("is empty: give one such as mqtt://user:password@host:1883")
	}
	u, err := url.Parse(text)
	// With a second @, mqtt://user:a@b@host, the password could end at either.
	// Without a user, ws://user:12/34@host is one of a host named user, and the rest its path.
	if err != nil || !isHost(u.Hostname()) || strings.Count(text, "@") > 1 || u.User == nil && strings.Contains(text, "@") {
		return location{}, login{}, errURL
	}
	scheme, known := schemes[u.Scheme]
	if !known {
		return location{}, login{}, badURL("must begin with mqtt:// or mqtts://, or for a WebSocket with ws:// or wss://")
	}
	at := location{host: u.Hostname(), secure: scheme.secure}
	switch {
	case u.Fragment != "":
		return location{}, login{}, errURL
	case scheme.webSocket:
		if at.webSocket = u.RequestURI(); u.Path == "" {
			at.webSocket = defaultPath + strings.TrimPrefix(at.webSocket, "/")
		}
	// mqtt://user:12#34@host is a valid URL, of a host named user and its port 12.
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery:
		return location{}, login{}, errURL
	}
	port := scheme.port
	if u.Port() != "" {
		port = u.Port()
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > maxUint16 {
		return location{}, login{}, badURL("has a port that is not in 1 to 65535")
	}
	at.address = net.JoinHostPort(at.host, port)
	password, _ := u.User.Password()
	return at, login{username: u.User.Username(), password: password}, nil
}

// isHost reports whether a host can be one: package url takes user:password, without a host, for one whose name
// has a colon. An address of IPv6 has colons, too.
func isHost(name string) bool {
	if strings.Contains(name, ":") {
		_, err := netip.ParseAddr(name)
		return err == nil
	}
	return name != "" && !strings.ContainsAny(name, "[],")
}
