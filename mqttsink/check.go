package mqttsink

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/job-publisher/reactor/reactor/driver"
)

// maxRemainingLength is the largest that MQTT can express [MQTT 5, 1.5.5].
const maxRemainingLength = 268_435_455

// Check implements driver.Session. The database refuses most of these messages, but its constraints
// can be dropped, and brokers have limits of their own.
func (s *session) Check(m driver.Message) error {
	if err := checkTopic(m.Topic); err != nil {
		return err
	}
	if m.QoS > s.limits.QoS {
		return fmt.Errorf("the message needs QoS %d, the broker takes %d at most", m.QoS, s.limits.QoS)
	}
	if m.Properties != nil {
		if err := s.checkProperties(m.Properties); err != nil {
			return err
		}
	}
	n := packetLength(m)
	if limit := s.limits.PacketBytes; limit > 0 && n > limit {
		return fmt.Errorf("the packet has %d bytes, the broker takes %d at most", n, limit)
	}
	if n > maxRemainingLength {
		return fmt.Errorf("the packet has %d bytes, MQTT's limit is %d", n, maxRemainingLength)
	}
	return nil
}

func (s *session) checkProperties(p *driver.Properties) error {
	if p.Retain && s.limits.NoRetain {
		return errors.New("the message is to be retained, and the broker retains none")
	}
	if p.ResponseTopic != "" {
		if err := checkTopic(p.ResponseTopic); err != nil {
			return fmt.Errorf("the response topic: %w", err)
		}
	}
	if err := checkText("the content type", p.ContentType); err != nil {
		return err
	}
	if n := len(p.CorrelationData); n > maxString {
		return fmt.Errorf("the correlation data has %d bytes, MQTT's limit is %d", n, maxString)
	}
	for _, u := range p.User {
		if u.Name == jobIDProperty {
			return fmt.Errorf("a header has the name %s, which every message has already", jobIDProperty)
		}
		if err := cmp.Or(checkText("the name of a header", u.Name), checkText("header "+strconv.Quote(u.Name), u.Value)); err != nil {
			return err
		}
	}
	return nil
}

// maxString is the length of the longest string in MQTT, in bytes.
const maxString = 65535

// checkTopic refuses what MQTT forbids, and what it lets a broker close the connection for [MQTT 5,
// 1.5.4 and 4.7].
func checkTopic(topic string) error {
	switch {
	case topic == "":
		return errors.New("the topic is empty")
	case strings.ContainsAny(topic, "+#"):
		return errors.New("the topic contains a wildcard, + or #")
	}
	return checkText("the topic", topic)
}

// checkText refuses what no string of MQTT may contain. what names it in the error.
func checkText(what, text string) error {
	switch {
	case len(text) > maxString:
		return fmt.Errorf("%s has %d bytes, MQTT's limit is %d", what, len(text), maxString)
	case !utf8.ValidString(text):
		return fmt.Errorf("%s is not valid UTF-8", what)
	}
	for _, r := range text {
		switch {
		case r < 0x20 || r >= 0x7F && r <= 0x9F:
			return fmt.Errorf("%s contains the control character %U", what, r)
		case r >= 0xFDD0 && r <= 0xFDEF || r&0xFFFE == 0xFFFE:
			return fmt.Errorf("%s contains the non-character %U", what, r)
		}
	}
	return nil
}
