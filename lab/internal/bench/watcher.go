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

// watcher subscribes at QoS 1 and takes the time of each message. It shares the machine
// with what it measures, so it does no more than it must: one goroutine, which reads from
// a large buffer, looks for the job id, and acknowledges all that one read brought by one
// write.
type watcher struct {
	conn   net.Conn
	reader *bufio.Reader
	done   chan struct{}

	mu       sync.Mutex
	received []check.Received // guarded by mu
	distinct map[int64]struct{}
	err      error // guarded by mu: why it has ended
}

// watch subscribes to a topic filter.
func watch(ctx context.Context, brokerURL string, expect int) (*watcher, error) {
	server, err := url.Parse(brokerURL)
	if err != nil || server.Scheme != "mqtt" && server.Scheme != "tcp" {
		return nil, errors.New("watch: the broker's URL must be mqtt://[user:password@]host:port")
	}
	if server.Port() == "" {
		server.Host = net.JoinHostPort(server.Hostname(), "1883")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", server.Host)
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	w := &watcher{
		conn: conn, reader: bufio.NewReaderSize(conn, 256<<10), done: make(chan struct{}),
		received: make([]check.Received, 0, expect), distinct: make(map[int64]struct{}, expect),
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := w.subscribe(server.User); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("watch: %w", err)
	}
	go func() {
		defer close(w.done)
		err := w.read()
		w.mu.Lock()
		w.err = err
		w.mu.Unlock()
	}()
	return w, nil
}

func (w *watcher) subscribe(user *url.Userinfo) error {
	receiveMaximum := uint16(65535)
	password, set := user.Password()
	connect := &packets.Connect{
		ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: "reactor-bench-" + rand.Text(), CleanStart: true,
		UsernameFlag: user != nil, Username: user.Username(), PasswordFlag: set, Password: []byte(password),
		Properties: &packets.Properties{ReceiveMaximum: &receiveMaximum},
	}
	if _, err := connect.WriteTo(w.conn); err != nil {
		return err
	}
	answer, err := packets.ReadPacket(w.reader)
	if err != nil {
		return err
	}
	if connack, ok := answer.Content.(*packets.Connack); !ok || connack.ReasonCode != 0 {
		return fmt.Errorf("the broker does not let the subscriber in: %v", answer)
	}
	subscribe := &packets.Subscribe{
		PacketID: 1, Properties: &packets.Properties{},
		Subscriptions: []packets.SubOptions{{Topic: topicPrefix + "#", QoS: 1, RetainHandling: 2}},
	}
	if _, err := subscribe.WriteTo(w.conn); err != nil {
		return err
	}
	answer, err = packets.ReadPacket(w.reader)
	if err != nil {
		return err
	}
	if suback, ok := answer.Content.(*packets.Suback); !ok || suback.Reasons[0] >= 0x80 {
		return fmt.Errorf("the broker refuses the subscription: %v", answer)
	}
	return nil
}

// read takes messages until the connection ends.
func (w *watcher) read() error {
	var (
		acks  []byte
		batch []check.Received
		topic string // most messages in a row have few different ones
		names = map[string]string{}
	)
	for {
		// What is buffered came with one read, now.
		if _, err := w.reader.Peek(1); err != nil {
			return err
		}
		now := time.Now()
		for first := true; first || w.reader.Buffered() > 0; first = false {
			kind, body, err := w.next()
			if err != nil {
				return err
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
				break // let others see how far we are
			}
		}
		w.mu.Lock()
		w.received = append(w.received, batch...)
		for i := range batch {
			w.distinct[batch[i].ID] = struct{}{}
		}
		w.mu.Unlock()
		batch = batch[:0]
		if len(acks) > 0 {
			if _, err := w.conn.Write(acks); err != nil {
				return err
			}
			acks = acks[:0]
		}
	}
}

// next returns the next packet's first byte and the rest behind its length, which is
// valid until the next call.
func (w *watcher) next() (byte, []byte, error) {
	head, err := w.reader.Peek(2)
	if err != nil {
		return 0, nil, err
	}
	const lengthBytes = 4 // of a variable byte integer, at most [MQTT 5, 1.5.5]
	size := 1
	for head[size]&0x80 != 0 {
		if size == lengthBytes {
			return 0, nil, errors.New("malformed packet")
		}
		if head, err = w.reader.Peek(size + 2); err != nil {
			return 0, nil, err
		}
		size++
	}
	length, n := binary.Uvarint(head[1:])
	if n <= 0 {
		return 0, nil, errors.New("malformed packet")
	}
	kind, total := head[0], 1+n+int(length)
	if total <= w.reader.Size() {
		packet, err := w.reader.Peek(total)
		if err != nil {
			return 0, nil, err
		}
		_, _ = w.reader.Discard(total) // it is there
		return kind, packet[1+n:], nil
	}
	packet := make([]byte, total)
	if _, err := io.ReadFull(w.reader, packet); err != nil {
		return 0, nil, err
	}
	return kind, packet[1+n:], nil
}

// published is what the watcher needs of a PUBLISH.
type published struct {
	topic []byte
	job   int64
}

var jobIDProperty = []byte("\x26\x00\x06job-id") // user property, and its name's length

// parsePublish reads a PUBLISH's body; id is 0 at QoS 0.
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

// count returns how many different jobs have arrived, and why no more will.
func (w *watcher) count() (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.distinct), w.err
}

// all returns everything that arrived.
func (w *watcher) all() []check.Received {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.received
}

func (w *watcher) close() {
	_ = w.conn.Close()
	<-w.done
}
