package netfault

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/job-publisher/reactor/internal/stack"
)

const (
	chunkBytes = 32 << 10
	lastWords  = 3 * time.Second // see readLast
)

// proxyConn is one connection through a proxy.
type proxyConn struct {
	proxy  *Proxy
	number int
	sides  [2]*net.TCPConn // by direction, the receiver: server, client

	dead bool // guarded by proxy.mu: the connection is a black hole

	once     sync.Once
	ended    chan struct{} // closed by a fault: nothing is forwarded any more
	wakeOnce sync.Once     // see end
}

// pump copies the bytes of one direction until the sender has closed or the connection
// has ended. It is the only reader of its sender and the only writer of its receiver.
func (c *proxyConn) pump(d Direction) {
	from, to := c.sides[1-d], c.sides[d]
	buf := make([]byte, chunkBytes)
	var offset int64
	for {
		n, err := from.Read(buf)
		switch {
		case n == 0:
		case c.awaitResume(d):
			if !c.forward(d, to, buf[:n], offset) && !c.hasEnded() && !c.isDead() {
				c.end(FaultReset) // the receiver has closed, so end the connection
			}
			offset += int64(n)
		default:
			if c.isDead() {
				c.proxy.update(func() { c.proxy.discarded[d] += int64(n) })
			}
			c.reportLost(d, buf[:n])
		}
		if err != nil {
			c.finish(d, err)
			return
		}
	}
}

// awaitResume waits while the direction is stalled. It reports whether the chunk is to be
// forwarded.
func (c *proxyConn) awaitResume(d Direction) bool {
	p := c.proxy
	for {
		p.mu.Lock()
		stalled, dropping, dead, changed := p.stalled[d], p.dropping[d], c.dead, p.changed
		p.mu.Unlock()
		if dead || c.hasEnded() {
			return false
		}
		if !stalled {
			return !dropping
		}
		select {
		case <-changed:
		case <-c.ended:
			return false
		}
	}
}

// forward writes a chunk, or as much of it as the hook and the limit allow, and then makes
// the fault that they ask for. It reports whether the write succeeded.
func (c *proxyConn) forward(d Direction, to *net.TCPConn, data []byte, offset int64) bool {
	p := c.proxy
	allowed, fault := c.askHook(d, data, offset)
	p.mu.Lock()
	if limit := p.limits[d]; limit >= 0 {
		if int64(allowed) >= limit {
			allowed, fault = int(limit), FaultCut
			p.limits[d] = -1
		} else {
			p.limits[d] -= int64(allowed)
		}
	}
	p.mu.Unlock()
	if allowed < len(data) {
		c.reportLost(d, data[allowed:])
	}
	if _, err := to.Write(data[:allowed]); err != nil {
		return false
	}
	p.update(func() { p.forwarded[d] += int64(allowed) })
	if fault != FaultNone {
		c.end(fault)
	}
	return true
}

func (c *proxyConn) askHook(d Direction, data []byte, offset int64) (allowed int, fault Fault) {
	p := c.proxy
	p.hookMu.Lock()
	defer p.hookMu.Unlock()
	if p.hook == nil {
		return len(data), FaultNone
	}
	v := p.hook(Chunk{Conn: c.number, Direction: d, Offset: offset, Data: data})
	if v.Then == FaultNone {
		return len(data), FaultNone
	}
	return min(max(v.Forward, 0), len(data)), v.Then
}

// finish passes the end of a sender on to its receiver. A FIN becomes a FIN, and the other
// direction can go on; anything else becomes a reset. While the direction is stalled or
// dropping, finish waits. The end of a black hole is never passed on.
func (c *proxyConn) finish(d Direction, err error) {
	p := c.proxy
	if errors.Is(err, os.ErrDeadlineExceeded) { // see end
		c.readLast(d)
		reset(c.sides[1-d])
		return
	}
	for held := true; held; {
		p.mu.Lock()
		changed := p.changed
		held = p.stalled[d] || p.dropping[d]
		dead := c.dead
		p.mu.Unlock()
		if dead {
			return
		}
		if !held {
			break
		}
		select {
		case <-changed:
		case <-c.ended:
			held = false
		}
	}
	if errors.Is(err, io.EOF) {
		_ = c.sides[d].CloseWrite()
		return
	}
	c.end(FaultReset)
}

func (c *proxyConn) isDead() bool {
	c.proxy.mu.Lock()
	defer c.proxy.mu.Unlock()
	return c.dead
}

func (c *proxyConn) hasEnded() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// end makes a fault. A reset after a cut closes sides that are still open.
func (c *proxyConn) end(fault Fault) {
	c.once.Do(func() { close(c.ended) })
	switch {
	case fault == FaultCut:
		for _, side := range c.sides {
			// A close would send a RST if bytes of the peer are unread. So only send a
			// FIN; the pumps go on reading until the peer closes too.
			_ = side.CloseWrite()
		}
	case c.proxy.lost.Load() != nil:
		c.wakeOnce.Do(func() {
			for _, side := range c.sides {
				_ = side.SetDeadline(time.Unix(1, 0)) // its pump wakes up, reads the last bytes and resets it
			}
		})
	default:
		for _, side := range c.sides {
			reset(side)
		}
	}
}

// reportLost calls the function of ObserveLost, if there is one.
func (c *proxyConn) reportLost(d Direction, data []byte) {
	if observe := c.proxy.lost.Load(); observe != nil {
		(*observe)(Chunk{Conn: c.number, Direction: d, Data: data})
	}
}

// readLast ends the sender with a FIN, and reports what it had sent by the time that it closes
// too. A RST at once would discard what it sends between our last read and the RST; to the
// sender these bytes are sent. One that does not answer within lastWords, because it is stopped,
// gets the RST after that.
func (c *proxyConn) readLast(d Direction) {
	from := c.sides[1-d]
	_ = from.CloseWrite()
	_ = from.SetReadDeadline(time.Now().Add(lastWords))
	for buf := make([]byte, chunkBytes); ; {
		n, err := from.Read(buf)
		if n > 0 {
			c.reportLost(d, buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// reset closes with a RST.
func reset(side *net.TCPConn) {
	_ = side.SetLinger(0)
	_ = side.Close()
}

func (c *proxyConn) close() {
	for _, side := range c.sides {
		_ = side.Close()
	}
}

// listenAgain listens on addr. If addr is empty, it chooses a port that will still be free
// when the listener is closed and opened again (see stack.FreePort).
func listenAgain(addr string) (net.Listener, error) {
	if addr != "" {
		return net.Listen("tcp", addr)
	}
	var last error
	for range 5 {
		port, err := stack.FreePort()
		if err != nil {
			return nil, err
		}
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err == nil {
			return l, nil
		}
		last = err
	}
	return nil, last
}
