package reactor

import "fmt"

// Delivery is the promise made for each job once it is claimed.
type Delivery uint8

const (
	// AtLeastOnce publishes at QoS 1 and settles after the PUBACK. A crash
	// between PUBACK and settle publishes the job again.
	AtLeastOnce Delivery = iota
	// AtMostOnce publishes at QoS 0 and settles after the write. A crash between
	// claim and write does not publish the job; it is recorded as failed.
	AtMostOnce
)

// String returns the name used by flags and logs.
func (d Delivery) String() string {
	switch d {
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
	if d == AtMostOnce {
		return 0
	}
	return 1
}

// ParseDelivery is the inverse of String.
func ParseDelivery(name string) (Delivery, error) {
	switch name {
	case "at-least-once":
		return AtLeastOnce, nil
	case "at-most-once":
		return AtMostOnce, nil
	}
	return 0, fmt.Errorf("unknown delivery %q: use at-least-once or at-most-once", name)
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
