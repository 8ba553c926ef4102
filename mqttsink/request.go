package mqttsink

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor/driver"
)

// firstRequest is the packet identifier of a session's first SUBSCRIBE or UNSUBSCRIBE. Those share
// the identifiers with PUBLISH [MQTT 5, 2.2.1], which uses the numbers of the slots.
const firstRequest = driver.LaneSlots + 1

// request is a SUBSCRIBE or UNSUBSCRIBE that waits for its answer.
type request struct {
	kind  byte        // the type of the packet that answers it
	codes chan []byte // one slot
}

// subscribe requests QoS 0 and no retained messages, because we want the subscription and not its
// messages. It returns a reason code for each filter.
func (s *session) subscribe(ctx context.Context, filters ...string) ([]byte, error) {
	p := &packets.Subscribe{Properties: &packets.Properties{}}
	for _, f := range filters {
		p.Subscriptions = append(p.Subscriptions, packets.SubOptions{Topic: f, RetainHandling: 2})
	}
	return s.ask(ctx, packets.SUBACK, len(filters), func(id uint16) packets.Packet {
		p.PacketID = id
		return p
	})
}

// unsubscribe ends subscriptions. It returns a reason code for each filter, which says whether it
// existed.
func (s *session) unsubscribe(ctx context.Context, filters ...string) ([]byte, error) {
	p := &packets.Unsubscribe{Topics: filters, Properties: &packets.Properties{}}
	return s.ask(ctx, packets.UNSUBACK, len(filters), func(id uint16) packets.Packet {
		p.PacketID = id
		return p
	})
}

// ask sends a request and waits for its answer, of n reason codes. If ctx or the session ends
// first, the broker may or may not have carried out the request.
func (s *session) ask(ctx context.Context, kind byte, n int, packet func(id uint16) packets.Packet) ([]byte, error) {
	r := &request{kind: kind, codes: make(chan []byte, 1)}
	s.mu.Lock()
	if err := s.sendError(); err != nil {
		s.mu.Unlock()
		return nil, err
	}
	id := uint16(firstRequest + s.asked%(maxUint16-firstRequest+1))
	s.asked++
	if s.requests == nil {
		s.requests = make(map[uint16]*request)
	}
	s.requests[id] = r
	var encoded bytes.Buffer
	_, _ = packet(id).WriteTo(&encoded) // writing to a bytes.Buffer does not fail
	s.buffer = append(s.buffer, encoded.Bytes()...)
	s.wakeWriter()
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.requests, id)
		s.mu.Unlock()
	}()
	select {
	case codes := <-r.codes:
		if len(codes) != n {
			return nil, fmt.Errorf("protocol error: the broker answers %d topic filters with %d reason codes", n, len(codes))
		}
		return codes, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-s.done:
		return nil, s.Err()
	}
}

// answerRequest passes a SUBACK or UNSUBACK to the request that waits for it. Without such a
// request the answer comes too late, and is ignored.
func (s *session) answerRequest(packet []byte) error {
	var (
		id    uint16
		codes []byte
		err   error
		kind  = packet[0] >> 4
	)
	if kind == packets.SUBACK {
		p := packets.Suback{Properties: &packets.Properties{}}
		err = unpack(&p, packet)
		id, codes = p.PacketID, p.Reasons
	} else {
		p := packets.Unsuback{Properties: &packets.Properties{}}
		err = unpack(&p, packet)
		id, codes = p.PacketID, p.Reasons
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.requests[id]; r != nil && r.kind == kind {
		delete(s.requests, id)
		r.codes <- slices.Clone(codes) // codes lies in the read buffer
	}
	return nil
}
