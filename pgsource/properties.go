package pgsource

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"slices"

	"github.com/job-publisher/reactor/reactor/driver"
)

// propertiesSQL is what a message carries beside its topic and payload, as one value; NULL for the
// messages that carry nothing, which are most: they cost no more than before the columns existed.
const propertiesSQL = `CASE WHEN retain OR content_type IS NOT NULL OR response_topic IS NOT NULL OR correlation_data IS NOT NULL OR headers IS NOT NULL THEN
       json_build_object('retain', retain, 'content_type', content_type, 'response_topic', response_topic,
                         'correlation_data', encode(correlation_data, 'hex'), 'headers', headers)::text END`

// readProperties reads a value of propertiesSQL.
func readProperties(text []byte) (*driver.Properties, error) {
	var read struct {
		Retain          bool              `json:"retain"`
		ContentType     string            `json:"content_type"`
		ResponseTopic   string            `json:"response_topic"`
		CorrelationData *hexBytes         `json:"correlation_data"`
		Headers         map[string]string `json:"headers"`
	}
	if err := json.Unmarshal(text, &read); err != nil {
		return nil, err
	}
	p := &driver.Properties{Retain: read.Retain, ContentType: read.ContentType, ResponseTopic: read.ResponseTopic}
	if read.CorrelationData != nil {
		p.CorrelationData = *read.CorrelationData
	}
	for name, value := range read.Headers {
		p.User = append(p.User, driver.UserProperty{Name: name, Value: value})
	}
	// In the same order each time: a message that is sent again is to be the same.
	slices.SortFunc(p.User, func(a, b driver.UserProperty) int { return cmp.Compare(a.Name, b.Name) })
	return p, nil
}

// hexBytes are bytes in hexadecimal: empty ones are not missing ones.
type hexBytes []byte

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *hexBytes) UnmarshalText(text []byte) (err error) {
	*b, err = hex.AppendDecode([]byte{}, text)
	return err
}
