package bench

import (
	"bytes"
	"testing"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/internal/check"
)

// FuzzParsePublish compares parsePublish with paho's codec.
func FuzzParsePublish(f *testing.F) {
	seed := func(qos byte, properties *packets.Properties) {
		p := packets.NewControlPacket(packets.PUBLISH)
		content := p.Content.(*packets.Publish)
		content.QoS, content.PacketID, content.Topic, content.Payload, content.Properties = qos, 7, "a/b", []byte("x"), properties
		var buf bytes.Buffer
		if _, err := p.WriteTo(&buf); err != nil {
			f.Fatal(err)
		}
		f.Add(buf.Bytes()[0], buf.Bytes()[2:])
	}
	for qos := range byte(3) {
		seed(qos, &packets.Properties{User: []packets.User{{Key: "job-id", Value: "123"}}})
		seed(qos, &packets.Properties{User: []packets.User{{Key: "other", Value: "1"}, {Key: "job-id", Value: "-5"}}})
		seed(qos, &packets.Properties{})
	}
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		m, id, err := parsePublish(kind, body)
		if err != nil {
			return
		}
		theirs := packets.Publish{Properties: &packets.Properties{}, QoS: kind >> 1 & 3}
		if theirs.Unpack(bytes.NewBuffer(bytes.Clone(body))) != nil {
			return // paho also checks parts that we do not parse
		}
		if string(m.topic) != theirs.Topic || theirs.QoS > 0 && id != theirs.PacketID {
			t.Errorf("topic %q, packet %d, want %q, %d", m.topic, id, theirs.Topic, theirs.PacketID)
		}
		if len(theirs.Properties.User) == 1 && theirs.Properties.User[0].Key == "job-id" && theirs.Properties.User[0].Value == "123" && m.job != 123 {
			t.Errorf("job %d, want 123", m.job)
		}
		if len(theirs.Properties.User) == 0 && m.job != check.NoID && !bytes.Contains(body, []byte("job-id")) {
			t.Errorf("job %d, but there is no property job-id", m.job)
		}
	})
}
