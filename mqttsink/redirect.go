package mqttsink

import (
	"net"
	"strings"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor/driver"
)

// maxRedirects is how many times in a row a connection follows brokers that refer to each other.
const maxRedirects = 3

// redirectError is a broker's refusal that names another server. It unwraps to the refusal, for the
// case that the server is none of ours.
type redirectError struct {
	reference string // the Server Reference; it may be empty
	refusal   error
}

func (e *redirectError) Error() string { return e.refusal.Error() }
func (e *redirectError) Unwrap() error { return e.refusal }

// redirection returns the error of a CONNACK with 0x9C or 0x9D.
func (b *broker) redirection(connack *packets.Connack) error {
	reason := "it wants us to use another server"
	if connack.ReasonCode == packets.ConnackServerMoved {
		reason = "it has moved"
	}
	reference := connack.Properties.ServerReference
	if reference == "" {
		reason += ", and does not say where: change mqttsink.Config.URL"
	} else {
		reason = withDetail(reason, reference) + ": that server is followed if it is one of mqttsink.Config.URL; add it there, with its own user and password"
	}
	return &redirectError{reference, &driver.ConnectRefusedError{Broker: b.address, Code: connack.ReasonCode, Reason: reason}}
}

// isRedirection reports whether a reason code asks for another server.
func isRedirection(code byte) bool {
	return code == packets.ConnackUseAnotherServer || code == packets.ConnackServerMoved
}

// isMeantBy reports whether a Server Reference names this broker. Without a port every port of the host
// is meant.
func (b *broker) isMeantBy(reference string) bool {
	for name := range strings.FieldsSeq(reference) {
		if strings.EqualFold(name, b.address) || strings.EqualFold(strings.Trim(name, "[]"), b.host) {
			return true
		}
		if host, port, err := net.SplitHostPort(name); err == nil && strings.EqualFold(net.JoinHostPort(host, port), b.address) {
			return true
		}
	}
	return false
}

// meant returns the broker that a Server Reference means, or nil: hosts, with or without ports,
// separated by spaces [MQTT 5, 4.11]. It has to be one of our list: whoever is connected to gets our
// password, and a broker that was taken over must not be able to collect those of others.
func (c *choice) meant(reference string) *broker {
	for _, b := range c.brokers {
		if b.isMeantBy(reference) {
			return b
		}
	}
	return nil
}

// redirect has the next connection of a client go to the broker that a Server Reference means. It reports
// whether that is one of ours.
func (c *choice) redirect(s *session, reference string) bool {
	b := c.meant(reference)
	if b == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next[s.clientID] = route{b, s.via}
	return true
}
