package producer

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Job is a message and when it is to be published. Only Topic is required. The database checks the
// values: what it refuses is a [RuleError].
type Job struct {
	// Topic is the MQTT topic: 1 to 65,535 bytes, without wildcards and control characters.
	Topic string
	// Payload is the message, as text. PayloadBytes is the message if it is not text, any bytes; one of
	// the two at most. nil: the message is Payload.
	Payload      string
	PayloadBytes []byte
	// FireAt is when it is published, to the microsecond, by the database's clock. In the past: at once.
	// Zero: now.
	FireAt time.Time
	// Key is a name of your own, 1 to 1,024 bytes, of one unfired job at most. "": none.
	Key string
	// OrderingKey: jobs with the same one are published in the order of FireAt, one after the other has
	// ended. "": none.
	OrderingKey string
	// ExpiresAt is when the message is worthless: after that the job fails instead of being published.
	// Zero: never.
	ExpiresAt time.Time
	// QoS is at most what the deployment delivers with. Its zero value stands for that one.
	QoS QoS
	// Retain has the broker keep the message for later subscribers of its topic.
	Retain bool
	// ContentType, ResponseTopic and CorrelationData are the properties of MQTT 5 of these names. "" and
	// nil: none.
	ContentType, ResponseTopic string
	CorrelationData            []byte
	// Headers are user properties of MQTT 5, at most 32 KiB as JSON. "job-id" is reactor's.
	Headers map[string]string
}

// QoS is the quality of service of one message.
type QoS uint8

// The values of Job.QoS. They are not the numbers of MQTT, so that the zero value is the deployment's.
const (
	QoSOfDeployment QoS = iota
	AtMostOnce          // MQTT's QoS 0
	AtLeastOnce         // QoS 1
	ExactlyOnce         // QoS 2
)

// value is the number of MQTT, or nil for NULL. A value that is none of ours is refused by the
// database.
func (q QoS) value() any {
	if q == QoSOfDeployment {
		return nil
	}
	return int64(q) - 1
}

// String returns the name of the constant, as the settings of reactor spell it.
func (q QoS) String() string {
	switch q {
	case QoSOfDeployment:
		return "of the deployment"
	case AtMostOnce:
		return "at-most-once"
	case AtLeastOnce:
		return "at-least-once"
	case ExactlyOnce:
		return "exactly-once"
	}
	return "unknown"
}

// check finds text and instants that PostgreSQL cannot hold. It would refuse most of it as well, with an error that
// names no column; and in JSON, invalid UTF-8 would silently become something else, as a year of six digits would in
// the microseconds of a driver.
func (j *Job) check() error {
	for _, text := range [...]struct{ column, value string }{
		{"topic", j.Topic}, {"payload", j.Payload}, {"key", j.Key}, {"content_type", j.ContentType}, {"response_topic", j.ResponseTopic}, {"ordering_key", j.OrderingKey},
	} {
		if err := checkText(text.column, text.value); err != nil {
			return err
		}
	}
	for name, value := range j.Headers {
		if err := checkText("headers", name+value); err != nil {
			return err
		}
	}
	if err := checkInstant("fire_at", j.FireAt); err != nil {
		return err
	}
	return checkInstant("expires_at", j.ExpiresAt)
}

func checkText(column, value string) error {
	if !utf8.ValidString(value) || strings.IndexByte(value, 0) >= 0 {
		return &RuleError{Column: column, Rule: column + " must be UTF-8 without zero bytes"}
	}
	return nil
}

// firstInstant is PostgreSQL's first timestamptz, 4714-11-24 BC, and instantsEnd what comes after its last one
// (https://www.postgresql.org/docs/current/datatype-datetime.html).
var firstInstant, instantsEnd = time.Date(-4713, time.November, 24, 0, 0, 0, 0, time.UTC), time.Date(294277, time.January, 1, 0, 0, 0, 0, time.UTC)

func checkInstant(column string, t time.Time) error {
	if !t.IsZero() && (t.Before(firstInstant) || !t.Before(instantsEnd)) {
		return &RuleError{Column: column, Rule: column + " must be between 4714-11-24 BC and the end of the year 294276"}
	}
	return nil
}

// headersText is the JSON of headers, or nil for NULL.
func headersText(headers map[string]string) any {
	if headers == nil {
		return nil
	}
	text, err := json.Marshal(headers)
	if err != nil {
		panic(err) // a map of strings has a JSON
	}
	return string(text)
}

// wire is a job for reactor.insert_jobs. encoding/json writes bytes as base64.
type wire struct {
	Topic           string            `json:"topic"`
	Payload         string            `json:"payload,omitempty"`
	PayloadBytes    []byte            `json:"payload_bytes"`
	FireAt          *string           `json:"fire_at,omitempty"`
	Key             *string           `json:"key,omitempty"`
	ExpiresAt       *string           `json:"expires_at,omitempty"`
	QoS             any               `json:"qos,omitempty"`
	Retain          bool              `json:"retain,omitempty"`
	ContentType     *string           `json:"content_type,omitempty"`
	ResponseTopic   *string           `json:"response_topic,omitempty"`
	CorrelationData []byte            `json:"correlation_data"`
	Headers         map[string]string `json:"headers"`
	OrderingKey     *string           `json:"ordering_key,omitempty"`
}

func (j *Job) wire() wire {
	return wire{
		Topic: j.Topic, Payload: j.Payload, PayloadBytes: j.PayloadBytes, FireAt: instantText(j.FireAt), Key: given(j.Key), ExpiresAt: instantText(j.ExpiresAt),
		QoS: j.QoS.value(), Retain: j.Retain, ContentType: given(j.ContentType), ResponseTopic: given(j.ResponseTopic), CorrelationData: j.CorrelationData, Headers: j.Headers, OrderingKey: given(j.OrderingKey),
	}
}

// arguments are those of reactor.schedule, and the columns of COPY in that order.
func (j *Job) arguments() []any {
	return []any{
		j.Topic, j.Payload, instant(j.FireAt), orNull(j.Key), instant(j.ExpiresAt), bytesOrNull(j.PayloadBytes), j.QoS.value(), j.Retain,
		orNull(j.ContentType), orNull(j.ResponseTopic), bytesOrNull(j.CorrelationData), headersText(j.Headers), orNull(j.OrderingKey),
	}
}

func given(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func orNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}

func bytesOrNull(b []byte) any {
	if b == nil {
		return nil
	}
	return b
}

// instant drops what is below a microsecond, as the database would round, and to the later one.
func instant(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.Truncate(time.Microsecond)
}

func instantText(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	text := t.Format("2006-01-02T15:04:05.000000Z")
	if year := t.Year(); year <= 0 { // PostgreSQL knows no year 0 and none before: that of Go is 1 BC
		text = fmt.Sprintf("%04d%s BC", 1-year, t.Format("-01-02T15:04:05.000000Z"))
	}
	return &text
}
