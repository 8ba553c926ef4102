package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/job-publisher/reactor/internal/alarm"
)

// The floor is the least lateness that a program on this machine can have: a precise timer, one
// packet per due job, and the subscriber. At QoS 2 one committed row comes between PUBREC and
// PUBREL, because nobody who promises exactly-once after a crash can do without. All else that
// reactor does is left out: the jobs are read and encoded before the first is due, nothing is
// claimed, and no other connection is open. None of reactor's code sends or receives here, so
// that its costs show in the comparison:
//
//	jobs ──timer──► write ──► broker ──► subscriber
//	                            │
//	         answers ◄── read ◄─┘
//	            │
//	            └─ QoS 2: all PUBRECs that have arrived ──► one row, committed ──► their PUBRELs
//
// Jobs that are due at the same instant leave in one write, up to the broker's window. So do
// PUBRELs: while one row is committed, more PUBRECs arrive, and the next row is for all of them.

// floorTable gets a row per commit. It is an ordinary table: a commit that has changed nothing
// but temporary tables does not wait for the disk.
const floorTable = "CREATE TABLE IF NOT EXISTS reactor_bench_floor (packets int4[])"

// floorWindow limits what is in flight where the broker does not.
const floorWindow = 4096

// floor publishes each job at its time, and returns when the broker has answered all.
func (b Bare) floor(ctx context.Context) error {
	jobs, err := b.floorJobs(ctx)
	if err != nil {
		return err
	}
	f, err := dialFloor(ctx, b.BrokerURL)
	if err != nil {
		return err
	}
	defer f.conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = f.conn.Close() })
	defer stop()
	if len(jobs) > 0 && !time.Now().Before(jobs[0].fireAt) {
		return errors.New("the floor was not ready when the first job was due: insert the jobs longer --ahead")
	}
	if b.Delivery.QoS() == 0 {
		return f.publish(jobs)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return f.read() })
	group.Go(func() error {
		defer f.end() // ends the other two
		return f.publish(jobs)
	})
	if b.Delivery.QoS() == 2 {
		group.Go(func() error { return b.withConn(ctx, func(conn *pgx.Conn) error { return f.release(ctx, conn) }) })
	}
	return group.Wait()
}

// floorJob is a job whose packet is encoded.
type floorJob struct {
	fireAt time.Time
	packet []byte
	idAt   int // where the packet identifier is; 0 at QoS 0
}

// floorJobs reads and encodes the load.
func (b Bare) floorJobs(ctx context.Context) (jobs []floorJob, err error) {
	err = b.withConn(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "SELECT id, topic, payload, fire_at FROM jobs WHERE "+loadCondition(b.After)+" ORDER BY fire_at, id")
		if err != nil {
			return err
		}
		var (
			id      int64
			topic   string
			payload []byte
			fireAt  time.Time
		)
		_, err = pgx.ForEachRow(rows, []any{&id, &topic, &payload, &fireAt}, func() error {
			job, err := newFloorJob(b.Delivery.QoS(), id, topic, payload, fireAt)
			jobs = append(jobs, job)
			return err
		})
		return err
	})
	return jobs, err
}

// newFloorJob encodes the same packet as reactor sends.
func newFloorJob(qos byte, id int64, topic string, payload []byte, fireAt time.Time) (floorJob, error) {
	m := packets.Publish{QoS: qos, PacketID: 1, Topic: topic, Payload: payload, Properties: &packets.Properties{
		User: []packets.User{{Key: "job-id", Value: strconv.FormatInt(id, 10)}},
	}}
	var buf bytes.Buffer
	if _, err := m.WriteTo(&buf); err != nil {
		return floorJob{}, err
	}
	job := floorJob{fireAt: fireAt, packet: buf.Bytes()}
	if qos > 0 {
		_, lengthBytes := binary.Uvarint(job.packet[1:]) // the same as a variable byte integer
		job.idAt = 1 + lengthBytes + 2 + len(topic)
	}
	return job, nil
}

// floorConn is a bare connection to the broker.
type floorConn struct {
	conn   net.Conn
	reader *bufio.Reader
	window int

	mu       sync.Mutex
	changed  *sync.Cond // on mu
	inFlight int        // guarded by mu
	received []int32    // guarded by mu: packet identifiers that wait for their row and their PUBREL
	ended    bool       // guarded by mu: everything is answered, or nothing more will be
}

func dialFloor(ctx context.Context, brokerURL string) (*floorConn, error) {
	server, err := url.Parse(brokerURL)
	if err != nil || server.Scheme != "mqtt" && server.Scheme != "tcp" {
		return nil, errors.New("the broker's URL must be mqtt://[user:password@]host:port")
	}
	if server.Port() == "" {
		server.Host = net.JoinHostPort(server.Hostname(), "1883")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", server.Host)
	if err != nil {
		return nil, err
	}
	f := &floorConn{conn: conn, reader: bufio.NewReader(conn), window: floorWindow}
	f.changed = sync.NewCond(&f.mu)
	password, set := server.User.Password()
	connect := &packets.Connect{
		ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: "reactor-bench-floor", CleanStart: true,
		UsernameFlag: server.User != nil, Username: server.User.Username(), PasswordFlag: set, Password: []byte(password),
		Properties: &packets.Properties{},
	}
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := connect.WriteTo(conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	answer, err := packets.ReadPacket(f.reader)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	connack, ok := answer.Content.(*packets.Connack)
	if !ok || connack.ReasonCode != 0 {
		return nil, errors.Join(fmt.Errorf("the broker does not accept the floor's connection: %v", answer), conn.Close())
	}
	if limit := connack.Properties.ReceiveMaximum; limit != nil {
		f.window = min(f.window, int(*limit))
	}
	return f, conn.SetDeadline(time.Time{})
}

// publish writes each packet at its time, and waits for all answers.
func (f *floorConn) publish(jobs []floorJob) error {
	timer, err := alarm.New()
	if err != nil {
		return err
	}
	defer timer.Close()
	var buf []byte
	for next := 0; next < len(jobs); {
		for d := time.Until(jobs[next].fireAt); d > 0; d = time.Until(jobs[next].fireAt) {
			timer.Set(d)
			<-timer.C()
		}
		now := time.Now()
		due := slices.IndexFunc(jobs[next:], func(job floorJob) bool { return job.fireAt.After(now) })
		if due < 0 {
			due = len(jobs) - next
		}
		if jobs[next].idAt > 0 {
			if due = f.admit(due); due == 0 {
				return nil // the reader has said why
			}
		}
		buf = buf[:0]
		for i, job := range jobs[next : next+due] {
			if job.idAt > 0 {
				// Fewer than floorWindow are in flight, so an identifier is free again long
				// before its turn.
				binary.BigEndian.PutUint16(job.packet[job.idAt:], uint16((next+i)%65535+1))
			}
			buf = append(buf, job.packet...)
		}
		if _, err := f.conn.Write(buf); err != nil {
			return err
		}
		next += due
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.inFlight > 0 && !f.ended {
		f.changed.Wait()
	}
	f.ended = true // the broker answers DISCONNECT by closing the connection
	_, err = f.conn.Write([]byte{packets.DISCONNECT << 4, 0})
	return err
}

// admit waits for room in the window, and returns how many of n jobs it takes; 0 when the
// connection has ended.
func (f *floorConn) admit(n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.inFlight >= f.window && !f.ended {
		f.changed.Wait()
	}
	if f.ended {
		return 0
	}
	n = min(n, f.window-f.inFlight)
	f.inFlight += n
	return n
}

// read takes the broker's answers until the connection ends.
func (f *floorConn) read() error {
	defer f.end()
	for {
		kind, id, code, err := f.next()
		switch {
		case err != nil && f.over():
			return nil
		case err != nil:
			return err
		case kind == packets.DISCONNECT || code >= 0x80:
			return fmt.Errorf("the broker refused a message, packet type %d: reason code %#x", kind, code)
		}
		f.mu.Lock()
		switch kind {
		case packets.PUBREC:
			f.received = append(f.received, int32(id))
		case packets.PUBACK, packets.PUBCOMP:
			f.inFlight--
		}
		if f.reader.Buffered() == 0 { // wake the others once for all answers of one read
			f.changed.Broadcast()
		}
		f.mu.Unlock()
	}
}

// next reads an answer. Its length takes one byte, because there is no text in it.
func (f *floorConn) next() (kind byte, id uint16, code byte, err error) {
	head, err := f.reader.Peek(2)
	if err != nil {
		return 0, 0, 0, err
	}
	kind, length := head[0]>>4, int(head[1])
	answer, err := f.reader.Peek(2 + length)
	if err != nil {
		return 0, 0, 0, err
	}
	body := answer[2:]
	if kind == packets.DISCONNECT {
		if len(body) > 0 {
			code = body[0]
		}
	} else if len(body) >= 2 {
		id = binary.BigEndian.Uint16(body)
		if len(body) > 2 {
			code = body[2]
		}
	}
	_, err = f.reader.Discard(2 + length)
	return kind, id, code, err
}

// release commits a row for all PUBRECs that have arrived, and sends their PUBRELs.
func (f *floorConn) release(ctx context.Context, conn *pgx.Conn) error {
	const insert = "INSERT INTO reactor_bench_floor (packets) VALUES ($1)"
	if _, err := conn.Prepare(ctx, insert, insert); err != nil { // not when the first job is due
		return err
	}
	var buf []byte
	for {
		f.mu.Lock()
		for len(f.received) == 0 && !f.ended {
			f.changed.Wait()
		}
		ids := f.received
		f.received = nil
		f.mu.Unlock()
		if len(ids) == 0 {
			return nil
		}
		if _, err := conn.Exec(ctx, insert, ids); err != nil {
			return err
		}
		buf = buf[:0]
		for _, id := range ids {
			const reserved = 0b0010 // flags that the packet type must have
			buf = append(buf, packets.PUBREL<<4|reserved, 2, byte(id>>8), byte(id))
		}
		if _, err := f.conn.Write(buf); err != nil {
			return err
		}
	}
}

// end ends everything.
func (f *floorConn) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	f.changed.Broadcast()
	_ = f.conn.Close()
}

func (f *floorConn) over() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ended
}
