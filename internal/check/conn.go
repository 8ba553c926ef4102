package check

import (
	"bufio"
	"io"
	"net"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho/session/state"
)

const (
	readBufferBytes  = 64 << 10
	writeBufferBytes = 16 << 10
)

// bufferedConn saves system calls: paho reads a packet in several small reads and
// writes each part of each acknowledgement separately, and each of these would be a
// system call.
//
// Reads go through a buffer. paho calls Lock and Unlock around each packet; what it
// writes in between goes into a buffer, and a goroutine writes the buffer to the
// network. The first write error is returned by the next write.
//
// It also records the time of the last read from the network. That is a message's time
// of arrival, however long the message then waits in paho's channels.
type bufferedConn struct {
	net.Conn
	r      *bufio.Reader
	stamp  *stampingReader
	mu     sync.Mutex // guards the fields below; paho locks it through Lock and Unlock
	w      *bufio.Writer
	err    error
	wake   chan struct{} // one slot: the buffer has something to write
	closed chan struct{}
	once   sync.Once
}

var (
	_ net.Conn    = (*bufferedConn)(nil)
	_ sync.Locker = (*bufferedConn)(nil)
)

func newBufferedConn(conn net.Conn) *bufferedConn {
	stamp := &stampingReader{from: conn}
	c := &bufferedConn{
		Conn: conn, stamp: stamp,
		r:      bufio.NewReaderSize(stamp, readBufferBytes),
		w:      bufio.NewWriterSize(conn, writeBufferBytes),
		wake:   make(chan struct{}, 1),
		closed: make(chan struct{}),
	}
	go c.flush()
	return c
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// Lock starts a packet.
func (c *bufferedConn) Lock() { c.mu.Lock() }

// Unlock ends a packet and wakes the goroutine that writes it.
func (c *bufferedConn) Unlock() {
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default: // the goroutine is already woken
	}
}

// Write adds to the packet; paho holds the lock.
func (c *bufferedConn) Write(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	return c.w.Write(p)
}

// Close writes what is in the buffer, mostly a DISCONNECT, and closes the connection.
func (c *bufferedConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		_ = c.SetWriteDeadline(time.Now().Add(time.Second)) // also ends a flush that hangs
		c.mu.Lock()
		if c.err == nil {
			_ = c.w.Flush()
		}
		c.mu.Unlock()
	})
	return c.Conn.Close()
}

// flush runs until Close.
func (c *bufferedConn) flush() {
	for {
		select {
		case <-c.closed:
			return
		case <-c.wake:
		}
		c.mu.Lock()
		if err := c.w.Flush(); err != nil && c.err == nil {
			c.err = err
		}
		c.mu.Unlock()
	}
}

// stampingReader records the time of its last read.
type stampingReader struct {
	from io.Reader
	last time.Time // owned by the goroutine that reads
}

func (r *stampingReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	r.last = time.Now()
	return n, err
}

// stampingSession is paho's session, but it also adds the time of arrival to each
// message at QoS 1 and 2. It does so on the goroutine that reads the connection.
//
// paho gives us a message on another goroutine, through a channel and a copy. So we
// store the time in the message: in the subscription identifier, the only property
// that is a pointer to an integer. A broker sends it only for a subscription with an
// identifier, and ours has none. Messages at QoS 0 do not pass through the session;
// they get their time a little later.
type stampingSession struct {
	*state.State
	conn *bufferedConn // owned by the goroutine that connects, then by the one that reads
}

func (s *stampingSession) ConAckReceived(conn io.Writer, cp *packets.Connect, ca *packets.Connack) error {
	s.conn, _ = conn.(*bufferedConn)
	return s.State.ConAckReceived(conn, cp, ca)
}

func (s *stampingSession) PacketReceived(recv *packets.ControlPacket, pubs chan<- *packets.Publish) error {
	if message, ok := recv.Content.(*packets.Publish); ok && s.conn != nil {
		at := int(s.conn.stamp.last.UnixNano())
		message.Properties.SubscriptionIdentifier = &at
	}
	return s.State.PacketReceived(recv, pubs)
}
