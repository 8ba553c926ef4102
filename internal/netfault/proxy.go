// Package netfault is a TCP proxy that does to a connection what networks do: cuts it,
// resets it, stalls it, drops bytes of it, swallows it, refuses it. Tests and the chaos
// runs place it between an instance and its servers.
//
// A proxy in user space has one limit: the kernel of its host acknowledges what it reads,
// so a peer's TCP never misses an acknowledgement, and TCP_USER_TIMEOUT and keepalives
// never fire. Only deadlines of the program itself can find such a connection dead. Wire,
// on Linux and for root, is a network whose packets really vanish.
package netfault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Direction of bytes through a Proxy.
type Direction int

const (
	ToServer Direction = iota // what the client sends
	ToClient                  // what the server answers
)

func (d Direction) String() string { return [...]string{"to server", "to client"}[d] }

// Fault is what a Hook may have done to its connection.
type Fault int

const (
	FaultNone  Fault = iota
	FaultCut         // as Proxy.Cut, this connection only
	FaultReset       // as Proxy.Reset, this connection only
)

// Chunk is what the proxy has read from one side and not yet written to the other.
// It may hold several protocol packets, or parts of them.
type Chunk struct {
	Conn      int // 1 for the first connection that the proxy accepted, 2 for the second, …
	Direction Direction
	Offset    int64  // of Data in this connection's bytes of this direction
	Data      []byte // valid until the hook returns; must not be changed
}

// Verdict is a hook's answer: pass the first Forward bytes on, then do Then. With
// FaultNone all bytes are passed on whatever Forward says.
type Verdict struct {
	Forward int
	Then    Fault
}

// Hook is called for every chunk before it is passed on, one call at a time.
// It may call the proxy's other methods, except SetHook and Close.
type Hook func(Chunk) Verdict

// Proxy is a TCP proxy between a client and a server under test, that does to
// their connection what networks do.
//
// Each connection has two pumps, one a direction, that read, pass the gate of
// their direction, ask the hook, and write:
//
//	client ──read──► gate ──► hook ──► write──► server
//	client ◄──write── hook ◄── gate ◄──read── server
//
// A stalled gate holds the chunk that was read, and TCP flow control does the rest.
// Its methods may be called from any goroutine.
type Proxy struct {
	bind func(addr string) (net.Listener, error) // listens there, or anywhere for ""

	hookMu sync.Mutex // makes hook calls take turns
	hook   Hook

	lost atomic.Pointer[func(Chunk)] // see ObserveLost

	mu        sync.Mutex // guards what follows
	target    string     // host:port
	addr      string
	listener  net.Listener // nil while refusing
	conns     map[*proxyConn]struct{}
	accepted  int
	forwarded [2]int64      // bytes, by direction
	swallowed [2]int64      // bytes that vanished in black holes, by direction
	stalled   [2]bool       // by direction
	dropping  [2]bool       // by direction
	limits    [2]int64      // bytes until a cut, by direction; < 0: none
	changed   chan struct{} // closed and replaced when any of these changes
	closed    bool

	pumps sync.WaitGroup
}

// New starts a proxy on 127.0.0.1 to a server, given as host:port or as a URL with
// them. It works until Close.
func New(server string) (*Proxy, error) { return newProxy(server, listenAgain) }

func newProxy(server string, bind func(addr string) (net.Listener, error)) (*Proxy, error) {
	target := server
	if strings.Contains(server, "://") {
		u, err := url.Parse(server)
		if err != nil {
			return nil, errors.New("proxy: not a URL")
		}
		target = u.Host
	}
	p := &Proxy{
		target: target, bind: bind, conns: map[*proxyConn]struct{}{},
		limits: [2]int64{-1, -1}, changed: make(chan struct{}),
	}
	if err := p.listen(); err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	return p, nil
}

// Addr is where clients connect, host:port. It stays the same over Refuse and Accept.
func (p *Proxy) Addr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addr
}

// Through returns rawURL with the proxy's host and port in it.
func (p *Proxy) Through(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		panic("netfault: Through: not a URL")
	}
	u.Host = p.Addr()
	return u.String()
}

// SetHook replaces the hook; nil removes it. It waits for a running call to end.
func (p *Proxy) SetHook(hook Hook) {
	p.hookMu.Lock()
	defer p.hookMu.Unlock()
	p.hook = hook
}

// ObserveLost has observe called with the bytes that went nowhere: a side has sent them, as
// far as it knows, and the proxy did not pass them on, because the connection had ended, or
// a fault threw them away. It is called from any goroutine, and may not call the proxy.
// nil ends it.
func (p *Proxy) ObserveLost(observe func(Chunk)) {
	if observe == nil {
		p.lost.Store(nil)
		return
	}
	p.lost.Store(&observe)
}

// Cut ends all connections as a peer does that closes: each side gets a FIN after
// the bytes it has been sent. What the sides still send is read and thrown away.
func (p *Proxy) Cut() { p.end(FaultCut) }

// Reset ends all connections with a RST to both sides. Bytes on the way are lost.
func (p *Proxy) Reset() { p.end(FaultReset) }

// CutAfterBytes lets n more bytes pass in one direction, over all connections,
// and then cuts the connection that carried the last of them. 0 ≤ n.
func (p *Proxy) CutAfterBytes(d Direction, n int64) {
	p.update(func() { p.limits[d] = n })
}

// Stall holds bytes back in the given directions, or both, until Resume. The
// connections stay up and their buffers fill.
func (p *Proxy) Stall(directions ...Direction) {
	p.update(func() { set(&p.stalled, true, directions) })
}

// Drop throws bytes away in the given directions, or both: to its sender a
// half-open connection seems alive. After Resume the stream has a hole, so what
// should follow is Cut or Reset.
func (p *Proxy) Drop(directions ...Direction) {
	p.update(func() { set(&p.dropping, true, directions) })
}

// Resume ends Stall and Drop in the given directions, or both.
func (p *Proxy) Resume(directions ...Direction) {
	p.update(func() {
		set(&p.stalled, false, directions)
		set(&p.dropping, false, directions)
	})
}

// BlackHole makes the connections of this moment go dead without a word, as they do when
// a host loses power or a NAT forgets a flow, and returns how many there were. Whatever
// either side sends them from now on is acknowledged and vanishes, a FIN and a RST as
// well. New connections work. It lasts until both sides have closed, or Cut, Reset or
// Close; see GiveUp for a server that finds out.
func (p *Proxy) BlackHole() int {
	n := 0
	p.update(func() {
		for c := range p.conns {
			if !c.dead {
				c.dead = true
				n++
			}
		}
	})
	return n
}

// GiveUp resets the server's side of the black holes, as its keepalive does after a
// while. Until then its sessions live on with their locks. The client hears nothing.
func (p *Proxy) GiveUp() {
	for _, c := range p.list() {
		if c.isDead() {
			reset(c.sides[ToServer])
		}
	}
}

// Dead is how many connections are black holes.
func (p *Proxy) Dead() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for c := range p.conns {
		if c.dead {
			n++
		}
	}
	return n
}

// Retarget has new connections go to another server, host:port, as a name or a virtual
// address does after a failover. Open ones are left alone.
func (p *Proxy) Retarget(server string) {
	p.update(func() { p.target = server })
}

// Refuse refuses new connections until Accept. Open ones are left alone.
func (p *Proxy) Refuse() {
	p.update(func() {
		if p.listener != nil {
			_ = p.listener.Close()
			p.listener = nil
		}
	})
}

// Accept ends Refuse, on the same port.
func (p *Proxy) Accept() error { return p.listen() }

// Open is how many connections are up.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// Accepted is how many connections there have been.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Forwarded is how many bytes were passed on in a direction.
func (p *Proxy) Forwarded(d Direction) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.forwarded[d]
}

// Swallowed is how many bytes of a direction have vanished in black holes.
func (p *Proxy) Swallowed(d Direction) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.swallowed[d]
}

// WaitAccepted blocks until there have been n connections in all, or ctx ends.
func (p *Proxy) WaitAccepted(ctx context.Context, n int) error {
	return p.await(ctx, fmt.Sprintf("%d connections", n), func() bool { return p.accepted >= n })
}

// WaitForwarded blocks until n bytes have been passed on in a direction, or ctx ends.
func (p *Proxy) WaitForwarded(ctx context.Context, d Direction, n int64) error {
	return p.await(ctx, fmt.Sprintf("%d bytes %s", n, d), func() bool { return p.forwarded[d] >= n })
}

// WaitSwallowed blocks until n bytes of a direction have vanished in black holes, or ctx
// ends.
func (p *Proxy) WaitSwallowed(ctx context.Context, d Direction, n int64) error {
	return p.await(ctx, fmt.Sprintf("%d bytes %s to vanish", n, d), func() bool { return p.swallowed[d] >= n })
}

// WaitOpen blocks until at most n connections are up, or ctx ends.
func (p *Proxy) WaitOpen(ctx context.Context, n int) error {
	return p.await(ctx, fmt.Sprintf("at most %d connections", n), func() bool { return len(p.conns) <= n })
}

// WaitClosed blocks until no connection is up, or ctx ends.
func (p *Proxy) WaitClosed(ctx context.Context) error { return p.WaitOpen(ctx, 0) }

// Close ends everything and waits for it. Closing twice is no error.
func (p *Proxy) Close() {
	p.Refuse()
	p.update(func() { p.closed = true })
	p.end(FaultReset)
	p.pumps.Wait()
}

// update changes the state and wakes those who wait for a change.
func (p *Proxy) update(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
	close(p.changed)
	p.changed = make(chan struct{})
}

// await blocks until cond, called with the lock held, is true.
func (p *Proxy) await(ctx context.Context, what string, cond func() bool) error {
	for {
		p.mu.Lock()
		ok, changed := cond(), p.changed
		p.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("proxy: wait for %s: %w", what, ctx.Err())
		}
	}
}

func set(flags *[2]bool, value bool, directions []Direction) {
	for _, d := range []Direction{ToServer, ToClient} {
		if len(directions) == 0 || slices.Contains(directions, d) {
			flags[d] = value
		}
	}
}

func (p *Proxy) listen() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.listener != nil {
		return nil
	}
	l, err := p.bind(p.addr)
	if err != nil {
		return err
	}
	p.listener, p.addr = l, l.Addr().String()
	p.pumps.Add(1)
	go p.accept(l)
	return nil
}

// accept runs until its listener is closed.
func (p *Proxy) accept(l net.Listener) {
	defer p.pumps.Done()
	for {
		client, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue // the client went away while it was queued
		}
		p.pumps.Add(1)
		go func() {
			defer p.pumps.Done()
			p.serve(client.(*net.TCPConn))
		}()
	}
}

// serve opens the server's side and starts the pumps.
func (p *Proxy) serve(client *net.TCPConn) {
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	server, err := net.Dial("tcp", target)
	if err != nil {
		_ = client.SetLinger(0) // no server: for the client a reset
		_ = client.Close()
		return
	}
	c := &proxyConn{
		proxy: p, sides: [2]*net.TCPConn{server.(*net.TCPConn), client},
		ended: make(chan struct{}),
	}
	var refused bool
	p.update(func() {
		if refused = p.closed; refused {
			return
		}
		p.accepted++
		c.number = p.accepted
		p.conns[c] = struct{}{}
	})
	if refused {
		c.close()
		return
	}
	var both sync.WaitGroup
	both.Go(func() { c.pump(ToServer) })
	both.Go(func() { c.pump(ToClient) })
	both.Wait()
	c.close()
	p.update(func() { delete(p.conns, c) })
}

// end does a fault to all connections.
func (p *Proxy) end(fault Fault) {
	for _, c := range p.list() {
		c.end(fault)
	}
}

func (p *Proxy) list() []*proxyConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	conns := make([]*proxyConn, 0, len(p.conns))
	for c := range p.conns {
		conns = append(conns, c)
	}
	return conns
}
