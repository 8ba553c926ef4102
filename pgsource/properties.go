package pgsource

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
	"github.com/job-publisher/reactor/schedule"
)

// propertiesSQL is what a message carries beside its topic and payload, as one value, and whether its
// schedule leaves it out; NULL for the messages that carry nothing, which are most: they cost no more than
// before the columns existed.
var propertiesSQL = `CASE WHEN retain OR content_type IS NOT NULL OR response_topic IS NOT NULL OR correlation_data IS NOT NULL OR headers IS NOT NULL OR ` + missedOccurrence + ` THEN
       json_build_object('retain', retain, 'content_type', content_type, 'response_topic', response_topic,
                         'correlation_data', encode(correlation_data, 'hex'), 'headers', headers,
                         'left_out', CASE WHEN ` + missedOccurrence + ` THEN reactor.skips_late(id, schedule_id, occurrence_at, fire_at) END)::text END`

// missedOccurrence is whether a job is an occurrence of a schedule that counts as missed by now. Only of
// these the schedule is read.
var missedOccurrence = fmt.Sprintf("(schedule_id IS NOT NULL AND fire_at < clock_timestamp() - interval '%d s')", schedule.MissedAfter/time.Second)

// readProperties reads a value of propertiesSQL into a job.
func readProperties(text []byte, job *driver.Job) error {
	var read struct {
		Retain          bool              `json:"retain"`
		ContentType     string            `json:"content_type"`
		ResponseTopic   string            `json:"response_topic"`
		CorrelationData *hexBytes         `json:"correlation_data"`
		Headers         map[string]string `json:"headers"`
		LeftOut         bool              `json:"left_out"`
	}
	if err := json.Unmarshal(text, &read); err != nil {
		return fmt.Errorf("the properties of job %d: %w", job.ID, err)
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
	job.Properties, job.LeftOut = p, read.LeftOut
	return nil
}

// hexBytes are bytes in hexadecimal: empty ones are not missing ones.
type hexBytes []byte

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *hexBytes) UnmarshalText(text []byte) (err error) {
	*b, err = hex.AppendDecode([]byte{}, text)
	return err
}
