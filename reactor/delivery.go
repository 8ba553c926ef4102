package reactor

import "fmt"

// Delivery is the promise made for each job once it is claimed.
type Delivery uint8

const (
	// ExactlyOnce publishes at QoS 2. The broker's receipt of a message is committed
	// before the message is released, so that whoever recovers it knows whether to
	// send it again. A duplicate, or by choice a failed job, is possible only where the
	// broker loses its session state (see SessionLossPolicy).
	ExactlyOnce Delivery = iota
	// AtLeastOnce publishes at QoS 1 and settles after the PUBACK. A crash
	// between PUBACK and settle publishes the job again.
	AtLeastOnce
	// AtMostOnce publishes at QoS 0 and settles after the write. A crash between
	// claim and write does not publish the job; it is recorded as failed.
	AtMostOnce
)

// String returns the name used by flags and logs.
func (d Delivery) String() string {
	switch d {
	case ExactlyOnce:
		return "exactly-once"
	case AtLeastOnce:
		return "at-least-once"
	case AtMostOnce:
		return "at-most-once"
	}
	return fmt.Sprintf("Delivery(%d)", uint8(d))
}

// QoS is the MQTT quality of service the mode publishes with. It is also what
// the journal records, so that whoever recovers a batch knows what was promised
// for it.
func (d Delivery) QoS() byte {
	switch d {
	case ExactlyOnce:
		return 2
	case AtLeastOnce:
		return 1
	default:
		return 0
	}
}

// ParseDelivery is the inverse of String.
func ParseDelivery(name string) (Delivery, error) {
	switch name {
	case "exactly-once":
		return ExactlyOnce, nil
	case "at-least-once":
		return AtLeastOnce, nil
	case "at-most-once":
		return AtMostOnce, nil
	}
	return 0, fmt.Errorf("unknown delivery %q: use exactly-once, at-least-once or at-most-once", name)
}

// MarshalText and UnmarshalText let flag and configuration parsers use Delivery.
func (d Delivery) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText parses what MarshalText wrote.
func (d *Delivery) UnmarshalText(text []byte) error {
	parsed, err := ParseDelivery(string(text))
	if err == nil {
		*d = parsed
	}
	return err
}

// SessionLossPolicy says what becomes of messages that were on their way at QoS 2 when
// the broker lost its session state: it may have passed them on, or lost them too.
type SessionLossPolicy uint8

const (
	// Republish sends them again: none is lost, some may arrive twice.
	Republish SessionLossPolicy = iota
	// Fail records them as failed jobs: none arrives twice, some may be lost.
	Fail
)

// String returns the name used by flags and logs.
func (p SessionLossPolicy) String() string {
	switch p {
	case Republish:
		return "republish"
	case Fail:
		return "fail"
	}
	return fmt.Sprintf("SessionLossPolicy(%d)", uint8(p))
}

// MarshalText and UnmarshalText let flag and configuration parsers use the policy.
func (p SessionLossPolicy) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText parses what MarshalText wrote.
func (p *SessionLossPolicy) UnmarshalText(text []byte) error {
	switch string(text) {
	case "republish":
		*p = Republish
	case "fail":
		*p = Fail
	default:
		return fmt.Errorf("unknown policy %q: use republish or fail", text)
	}
	return nil
}

// Staging says whether messages of ExactlyOnce are sent to the broker before their time, to be released
// at it: then no more than one packet is left to be sent. That is possible where the broker passes
// a QoS 2 message on when it is released, and not when it is published; MQTT allows both.
type Staging uint8

const (
	// StageAuto asks each broker, over each connection, by a message of our own. Where the answer is
	// not clear, nothing is staged.
	StageAuto Staging = iota
	// StageOn stages also where the answer is not clear, as the user must not publish and subscribe
	// to the topics that are asked on. A broker that is found to pass on what is published is
	// never sent anything before its time.
	StageOn
	// StageOff stages nothing, and asks nothing.
	StageOff
)

// String returns the name used by flags and logs.
func (s Staging) String() string {
	switch s {
	case StageAuto:
		return "auto"
	case StageOn:
		return "on"
	case StageOff:
		return "off"
	}
	return fmt.Sprintf("Staging(%d)", uint8(s))
}

// MarshalText and UnmarshalText let flag and configuration parsers use Staging.
func (s Staging) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText parses what MarshalText wrote.
func (s *Staging) UnmarshalText(text []byte) error {
	switch string(text) {
	case "auto":
		*s = StageAuto
	case "on":
		*s = StageOn
	case "off":
		*s = StageOff
	default:
		return fmt.Errorf("unknown staging %q: use auto, on or off", text)
	}
	return nil
}
