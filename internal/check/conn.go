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

// bufferedConn makes paho cheap: paho reads a packet in several tiny reads and
// writes each part of each acknowledgement by itself, every one a system call.
//
// Reads go through a buffer. Writes, between the Lock and Unlock that paho calls
// around a packet, gather in a buffer; a goroutine writes out what has gathered
// while it was writing. The first write error is reported by the next write.
//
// It also tells the time of the last read from the network, from which a message
// gets its time of arrival, however long it then waits in paho's channels.
type bufferedConn struct {
	net.Conn
	r      *bufio.Reader
	stamp  *stampingReader
	mu     sync.Mutex // guards what follows; it is the Locker that paho sees
	w      *bufio.Writer
	err    error
	wake   chan struct{} // one slot: something is to be written out
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

// Unlock ends a packet and has it written out soon.
func (c *bufferedConn) Unlock() {
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default: // the goroutine is about to look anyway
	}
}

// Write adds to the packet; paho holds the lock.
func (c *bufferedConn) Write(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	return c.w.Write(p)
}

// Close writes out what has gathered, a DISCONNECT mostly, and closes.
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

// stampingReader remembers when it last read something.
type stampingReader struct {
	from io.Reader
	last time.Time // owned by the goroutine that reads
}

func (r *stampingReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	r.last = time.Now()
	return n, err
}

// stampingSession is paho's session, which also puts the time of arrival on each
// message at QoS 1 and 2, on the goroutine that reads the connection.
//
// paho hands a message to us on another goroutine, through a channel and a copy,
// so a message carries its time in the one property that is a pointer to an
// integer and that no broker sends to a subscription without an identifier.
// Messages at QoS 0 bypass the session and get their time a little later.
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
