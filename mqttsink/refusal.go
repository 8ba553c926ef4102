package mqttsink

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor/driver"
)

// refusal turns a CONNACK that refuses the connection into an error: a *driver.ConnectRefusedError
// if somebody has to change something, and otherwise a temporary failure.
func (b *broker) refusal(connack *packets.Connack) error {
	code, said := connack.ReasonCode, connack.Properties.ReasonString
	if isRedirection(code) {
		return b.redirection(connack)
	}
	if remedy, permanent := remedies[code]; permanent {
		return &driver.ConnectRefusedError{Broker: b.address, Code: code, Reason: withDetail(remedy, said)}
	}
	return fmt.Errorf("broker %s does not accept connections at present: %s", b.address, withDetail(reasonText(code), said))
}

// remedies say what to do about the permanent refusals.
var remedies = map[byte]string{
	packets.ConnackMalformedPacket:            "it does not understand MQTT 5: use a broker that does, e.g. mosquitto 2",
	packets.ConnackProtocolError:              "it does not understand MQTT 5: use a broker that does, e.g. mosquitto 2",
	packets.ConnackUnsupportedProtocolVersion: "it does not speak MQTT 5: use a broker that does, e.g. mosquitto 2",
	packets.ConnackInvalidClientID:            "it does not allow our client id (reactor-…): allow it in the broker's configuration",
	packets.ConnackBadUsernameOrPassword:      "bad user name or password: check user and password of the MQTT URL",
	packets.ConnackNotAuthorized:              "not authorized: check user and password of the MQTT URL, and the broker's access rules",
	packets.ConnackBanned:                     "this client is banned: ask the broker's administrator",
	packets.ConnackBadAuthenticationMethod:    "it wants another authentication method than user and password",
	packets.ConnackPacketTooLarge:             "it finds the CONNECT packet too large: raise its packet size limit",
	packets.ConnackQoSNotSupported:            "it does not support the QoS of this delivery: set reactor.Config.Delivery to AtLeastOnce or AtMostOnce",
}

// reasonText names a reason code.
func reasonText(code byte) string {
	if text, known := reasons[code]; known {
		return text
	}
	return fmt.Sprintf("reason code 0x%02X", code)
}

// withDetail adds what the broker says about it. The text goes to logs and to the table of failed
// jobs: it is one line, of a bounded length, and text that Postgres can store.
func withDetail(text, said string) string {
	const maxRunes = 200
	said = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(said, "?"))
	if runes := []rune(said); len(runes) > maxRunes {
		said = string(runes[:maxRunes]) + "…"
	}
	if said = strings.TrimSpace(said); said == "" {
		return text
	}
	return text + " (" + said + ")"
}

// CodeText returns the meaning of an MQTT 5 reason code, in the words of the specification (2.4), or "" if
// it has none.
func CodeText(code byte) string { return reasons[code] }

var reasons = map[byte]string{
	0x00: "success",
	0x10: "no matching subscribers",
	0x11: "no subscription existed",
	0x80: "unspecified error",
	0x81: "malformed packet",
	0x82: "protocol error",
	0x83: "implementation specific error",
	0x84: "unsupported protocol version",
	0x85: "client identifier not valid",
	0x86: "bad user name or password",
	0x87: "not authorized",
	0x88: "server unavailable",
	0x89: "server busy",
	0x8A: "banned",
	0x8B: "server shutting down",
	0x8C: "bad authentication method",
	0x8D: "keep alive timeout",
	0x8E: "session taken over",
	0x8F: "topic filter invalid",
	0x90: "topic name invalid",
	0x91: "packet identifier in use",
	0x92: "packet identifier not found",
	0x93: "receive maximum exceeded",
	0x94: "topic alias invalid",
	0x95: "packet too large",
	0x96: "message rate too high",
	0x97: "quota exceeded",
	0x98: "administrative action",
	0x99: "payload format invalid",
	0x9A: "retain not supported",
	0x9B: "QoS not supported",
	0x9C: "use another server",
	0x9D: "server moved",
	0x9F: "connection rate exceeded",
	0xA0: "maximum connect time",
	0xA1: "subscription identifiers not supported",
	0xA2: "wildcard subscriptions not supported",
}
