package mqttsink

import (
	"errors"
	"fmt"
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
	n := packetLength(m)
	if limit := s.limits.PacketBytes; limit > 0 && n > limit {
		return fmt.Errorf("the packet has %d bytes, the broker takes %d at most", n, limit)
	}
	if n > maxRemainingLength {
		return fmt.Errorf("the packet has %d bytes, MQTT's limit is %d", n, maxRemainingLength)
	}
	return nil
}

// checkTopic refuses what MQTT forbids, and what it lets a broker close the connection for [MQTT 5,
// 1.5.4 and 4.7].
func checkTopic(topic string) error {
	switch {
	case topic == "":
		return errors.New("the topic is empty")
	case len(topic) > 65535:
		return fmt.Errorf("the topic has %d bytes, MQTT's limit is 65535", len(topic))
	case !utf8.ValidString(topic):
		return errors.New("the topic is not valid UTF-8")
	}
	for _, r := range topic {
		switch {
		case r == '+' || r == '#':
			return errors.New("the topic contains a wildcard, + or #")
		case r < 0x20 || r >= 0x7F && r <= 0x9F:
			return fmt.Errorf("the topic contains the control character %U", r)
		case r >= 0xFDD0 && r <= 0xFDEF || r&0xFFFE == 0xFFFE:
			return fmt.Errorf("the topic contains the non-character %U", r)
		}
	}
	return nil
}
