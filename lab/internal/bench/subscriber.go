package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/internal/check"
)

// subscriber subscribes at QoS 1 and records the time of each message. It shares the machine
// with the programs that it measures, so it does as little work as possible. One goroutine
// reads through a large buffer, finds the job ids, and acknowledges the messages of one read
// with one write.
type subscriber struct {
	conn   net.Conn
	reader *bufio.Reader
	done   chan struct{}

	mu       sync.Mutex
	received []check.Received // guarded by mu
	distinct map[int64]struct{}
	err      error // guarded by mu: why the connection has ended
}

// subscribe connects and subscribes to some of the bench's topics.
func subscribe(ctx context.Context, brokerURL, filter string, expect int) (*subscriber, error) {
	server, err := url.Parse(brokerURL)
	if err != nil || server.Scheme != "mqtt" && server.Scheme != "tcp" {
		return nil, errors.New("subscribe: the broker's URL must be mqtt://[user:password@]host:port")
	}
	if server.Port() == "" {
		server.Host = net.JoinHostPort(server.Hostname(), "1883")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", server.Host)
	if err != nil {
		return nil, fmt.Errorf("subscribe: %s", err)
	}
	s := &subscriber{
		conn: conn, reader: bufio.NewReaderSize(conn, 256<<10), done: make(chan struct{}),
		received: make([]check.Received, 0, expect), distinct: make(map[int64]struct{}, expect),
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := s.subscribe(server.User, filter); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("subscribe: %s", err)
	}
	go func() {
		defer close(s.done)
		err := s.read()
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
	}()
	return s, nil
}

func (s *subscriber) subscribe(user *url.Userinfo, filter string) error {
	receiveMaximum := uint16(65535)
	password, set := user.Password()
	connect := &packets.Connect{
		ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: "reactor-bench-" + rand.Text(), CleanStart: true,
		UsernameFlag: user != nil, Username: user.Username(), PasswordFlag: set, Password: []byte(password),
		Properties: &packets.Properties{ReceiveMaximum: &receiveMaximum},
	}
	if _, err := connect.WriteTo(s.conn); err != nil {
		return err
	}
	answer, err := packets.ReadPacket(s.reader)
	if err != nil {
		return err
	}
	if connack, ok := answer.Content.(*packets.Connack); !ok || connack.ReasonCode != 0 {
		return fmt.Errorf("the broker refuses the subscriber's connection: %v", answer)
	}
	subscribe := &packets.Subscribe{
		PacketID: 1, Properties: &packets.Properties{},
		Subscriptions: []packets.SubOptions{{Topic: filter, QoS: 1, RetainHandling: 2}},
	}
	if _, err := subscribe.WriteTo(s.conn); err != nil {
		return err
	}
	answer, err = packets.ReadPacket(s.reader)
	if err != nil {
		return err
	}
	if suback, ok := answer.Content.(*packets.Suback); !ok || suback.Reasons[0] >= 0x80 {
		return fmt.Errorf("the broker refuses the subscription: %v", answer)
	}
	return nil
}

// read records messages until the connection ends.
func (s *subscriber) read() error {
	var (
		acks  []byte
		batch []check.Received
		topic string                // of the last message; it saves a look-up if the next one has the same
		names = map[string]string{} // one copy of each topic
	)
	for {
		// Everything in the buffer came with one read, just now.
		if _, err := s.reader.Peek(1); err != nil {
			return err
		}
		now := time.Now()
		for first := true; first || s.reader.Buffered() > 0; first = false {
			buffered := s.reader.Buffered()
			kind, body, err := s.next()
			if err != nil {
				return err
			}
			if len(body) > buffered {
				now = time.Now() // a large one, and what came behind it
			}
			if kind>>4 != packets.PUBLISH {
				continue
			}
			m, id, err := parsePublish(kind, body)
			if err != nil {
				return err
			}
			if string(m.topic) != topic {
				var known bool
				if topic, known = names[string(m.topic)]; !known {
					topic = string(m.topic)
					names[topic] = topic
				}
			}
			batch = append(batch, check.Received{ID: m.job, Topic: topic, At: now, QoS: kind >> 1 & 3, Dup: kind&8 != 0})
			if id != 0 {
				acks = append(acks, packets.PUBACK<<4, 2, byte(id>>8), byte(id))
			}
			if len(batch) == 1000 {
				break // update the counters
			}
		}
		s.mu.Lock()
		s.received = append(s.received, batch...)
		for i := range batch {
			s.distinct[batch[i].ID] = struct{}{}
		}
		s.mu.Unlock()
		batch = batch[:0]
		if len(acks) > 0 {
			if _, err := s.conn.Write(acks); err != nil {
				return err
			}
			acks = acks[:0]
		}
	}
}

// next returns the next packet's first byte and what follows its length. The latter is valid
// until the next call.
func (s *subscriber) next() (byte, []byte, error) {
	head, err := s.reader.Peek(2)
	if err != nil {
		return 0, nil, err
	}
	const lengthBytes = 4 // of a variable byte integer, at most [MQTT 5, 1.5.5]
	size := 1
	for head[size]&0x80 != 0 {
		if size == lengthBytes {
			return 0, nil, errors.New("malformed packet")
		}
		if head, err = s.reader.Peek(size + 2); err != nil {
			return 0, nil, err
		}
		size++
	}
	length, n := binary.Uvarint(head[1:])
	if n <= 0 {
		return 0, nil, errors.New("malformed packet")
	}
	kind, total := head[0], 1+n+int(length)
	if total <= s.reader.Size() {
		packet, err := s.reader.Peek(total)
		if err != nil {
			return 0, nil, err
		}
		_, _ = s.reader.Discard(total) // cannot fail: Peek has buffered it
		return kind, packet[1+n:], nil
	}
	packet := make([]byte, total)
	if _, err := io.ReadFull(s.reader, packet); err != nil {
		return 0, nil, err
	}
	return kind, packet[1+n:], nil
}

// published is the part of a PUBLISH that the subscriber needs.
type published struct {
	topic []byte
	job   int64
}

var jobIDProperty = []byte("\x26\x00\x06job-id") // identifier of a user property, then length and text of its name

// parsePublish parses the body of a PUBLISH. id is the packet id, 0 at QoS 0.
func parsePublish(kind byte, body []byte) (m published, id uint16, err error) {
	malformed := errors.New("malformed PUBLISH")
	if len(body) < 2 || len(body) < 2+int(binary.BigEndian.Uint16(body)) {
		return m, 0, malformed
	}
	n := 2 + int(binary.BigEndian.Uint16(body))
	m.topic, body = body[2:n], body[n:]
	if kind>>1&3 > 0 {
		if len(body) < 2 {
			return m, 0, malformed
		}
		id, body = binary.BigEndian.Uint16(body), body[2:]
	}
	length, n := binary.Uvarint(body)
	if n <= 0 || length > uint64(len(body)-n) {
		return m, 0, malformed
	}
	properties := body[n : n+int(length)]
	m.job = check.NoID
	if at := bytes.Index(properties, jobIDProperty); at >= 0 {
		value := properties[at+len(jobIDProperty):]
		if len(value) >= 2 && len(value) >= 2+int(binary.BigEndian.Uint16(value)) {
			if job, err := strconv.ParseInt(string(value[2:2+binary.BigEndian.Uint16(value)]), 10, 64); err == nil {
				m.job = job
			}
		}
	}
	return m, id, nil
}

// count returns how many different jobs have arrived, and an error if the connection has ended.
func (s *subscriber) count() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.distinct), s.err
}

// all returns all messages that have arrived.
func (s *subscriber) all() []check.Received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.received
}

func (s *subscriber) close() {
	_ = s.conn.Close()
	<-s.done
}
