// Package netfault makes network faults in TCP connections. Its proxy can cut, reset, stall
// or refuse a connection, drop its bytes, or make it a black hole. Tests and the chaos runs
// place it between an instance and its servers.
//
// A proxy in user space has one limit. The kernel of its host acknowledges the bytes that
// it receives, so a peer's TCP never misses an acknowledgement, and TCP_USER_TIMEOUT and
// keepalives never end the connection. Only timeouts of the program itself can detect that
// such a connection is dead. Wire, on Linux and for root, is a network that really drops
// packets.
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

// Fault is a fault that a Hook can make in its connection.
type Fault int

const (
	FaultNone  Fault = iota
	FaultCut         // like Proxy.Cut, but for this connection only
	FaultReset       // like Proxy.Reset, but for this connection only
)

// Chunk is what the proxy has read from one side and not yet written to the other.
// It may contain several protocol packets, or parts of them.
type Chunk struct {
	Conn      int // 1 for the first connection that the proxy accepted, 2 for the second, …
	Direction Direction
	Offset    int64  // how many bytes of this connection and direction came before Data
	Data      []byte // valid until the hook returns; must not be changed
}

// Verdict is what a hook decides about a chunk: forward the first Forward bytes, then make
// the fault Then. With FaultNone all bytes are forwarded, and Forward is ignored.
type Verdict struct {
	Forward int
	Then    Fault
}

// Hook is called for every chunk before it is forwarded, one call at a time.
// It may call the proxy's other methods, except SetHook and Close.
type Hook func(Chunk) Verdict

// Proxy is a TCP proxy between a client and a server. It makes faults in their
// connections.
//
// Each connection has two goroutines, the pumps, one for each direction. A pump reads a
// chunk, waits while its direction is stalled, calls the hook, and writes:
//
//	client ──read──► stalled? ──► hook ──► write──► server
//	client ◄──write── hook ◄── stalled? ◄──read── server
//
// A stalled pump does not read on, so TCP flow control stops the sender when the buffers
// are full. The methods may be called from any goroutine.
type Proxy struct {
	bind func(addr string) (net.Listener, error) // listens on addr, or on a free port if it is ""

	hookMu sync.Mutex // held while the hook is called or replaced
	hook   Hook

	lost atomic.Pointer[func(Chunk)] // see ObserveLost

	mu        sync.Mutex // guards the fields up to closed
	target    string     // host:port
	addr      string
	listener  net.Listener // nil while refusing
	conns     map[*proxyConn]struct{}
	accepted  int
	forwarded [2]int64      // bytes, by direction
	discarded [2]int64      // bytes that black holes have discarded, by direction
	stalled   [2]bool       // by direction
	dropping  [2]bool       // by direction
	limits    [2]int64      // bytes until a cut, by direction; < 0: no limit
	changed   chan struct{} // closed and replaced when any of these changes
	closed    bool

	pumps sync.WaitGroup
}

// New starts a proxy on 127.0.0.1 to a server. The server is host:port, or a URL that
// contains them. The proxy runs until Close.
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

// Addr is the address for clients, host:port. Refuse and Accept do not change it.
func (p *Proxy) Addr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addr
}

// Through returns rawURL with the proxy's host and port.
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

// ObserveLost sets a function that is called with lost bytes: a side has sent them, and the
// proxy did not forward them, because the connection had ended or a fault discarded them.
// The function is called from any goroutine, and must not call the proxy. nil removes it.
// While it is set, a reset is a FIN first, and the RST follows when the side has closed too, or
// some seconds later: so nothing that was sent escapes.
func (p *Proxy) ObserveLost(observe func(Chunk)) {
	if observe == nil {
		p.lost.Store(nil)
		return
	}
	p.lost.Store(&observe)
}

// Cut ends all connections as if the peer had closed them: each side gets a FIN after the
// bytes that were forwarded to it. What the sides still send is read and discarded.
func (p *Proxy) Cut() { p.end(FaultCut) }

// Reset ends all connections with a RST to both sides. Bytes in transit are lost. See also
// ObserveLost.
func (p *Proxy) Reset() { p.end(FaultReset) }

// CutAfterBytes forwards n ≥ 0 more bytes in one direction, counted over all connections,
// and then cuts the connection of the last byte.
func (p *Proxy) CutAfterBytes(d Direction, n int64) {
	p.update(func() { p.limits[d] = n })
}

// Stall forwards no bytes in the given directions, or in both if none is given, until
// Resume. The connections stay open and their buffers fill.
func (p *Proxy) Stall(directions ...Direction) {
	p.update(func() { set(&p.stalled, true, directions) })
}

// Drop discards bytes in the given directions, or in both if none is given. To the sender
// the connection seems to work. After Resume bytes are missing from the stream, so Cut or
// Reset should follow.
func (p *Proxy) Drop(directions ...Direction) {
	p.update(func() { set(&p.dropping, true, directions) })
}

// Resume ends Stall and Drop in the given directions, or in both if none is given.
func (p *Proxy) Resume(directions ...Direction) {
	p.update(func() {
		set(&p.stalled, false, directions)
		set(&p.dropping, false, directions)
	})
}

// BlackHole turns all open connections into black holes, and returns how many there were.
// This happens when a host loses power or a NAT drops the state of a connection. Everything
// that either side sends from now on is acknowledged and discarded, a FIN and a RST too. New
// connections work. A black hole lasts until both sides have closed, or until Cut, Reset or
// Close. See also ResetServerSide.
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

// ResetServerSide resets the server's side of the black holes, as the server's keepalive
// does after some time. Until then the server keeps the sessions and their locks. The
// client is not informed.
func (p *Proxy) ResetServerSide() {
	for _, c := range p.list() {
		if c.isDead() {
			reset(c.sides[ToServer])
		}
	}
}

// Dead returns how many connections are black holes.
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

// Retarget sends new connections to another server, host:port, as a name or a virtual
// address does after a failover. Open connections are not changed.
func (p *Proxy) Retarget(server string) {
	p.update(func() { p.target = server })
}

// Refuse refuses new connections until Accept. Open connections are not changed.
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

// Open returns how many connections are open.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// Accepted returns how many connections there have been.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Forwarded returns how many bytes were forwarded in a direction.
func (p *Proxy) Forwarded(d Direction) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.forwarded[d]
}

// Discarded returns how many bytes of a direction the black holes have discarded.
func (p *Proxy) Discarded(d Direction) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.discarded[d]
}

// WaitAccepted blocks until there have been n connections in all, or ctx ends.
func (p *Proxy) WaitAccepted(ctx context.Context, n int) error {
	return p.await(ctx, fmt.Sprintf("%d connections", n), func() bool { return p.accepted >= n })
}

// WaitForwarded blocks until n bytes have been forwarded in a direction, or ctx ends.
func (p *Proxy) WaitForwarded(ctx context.Context, d Direction, n int64) error {
	return p.await(ctx, fmt.Sprintf("%d bytes %s", n, d), func() bool { return p.forwarded[d] >= n })
}

// WaitDiscarded blocks until black holes have discarded n bytes of a direction, or ctx ends.
func (p *Proxy) WaitDiscarded(ctx context.Context, d Direction, n int64) error {
	return p.await(ctx, fmt.Sprintf("%d discarded bytes %s", n, d), func() bool { return p.discarded[d] >= n })
}

// WaitOpen blocks until at most n connections are open, or ctx ends.
func (p *Proxy) WaitOpen(ctx context.Context, n int) error {
	return p.await(ctx, fmt.Sprintf("at most %d open connections", n), func() bool { return len(p.conns) <= n })
}

// WaitClosed blocks until no connection is open, or ctx ends.
func (p *Proxy) WaitClosed(ctx context.Context) error { return p.WaitOpen(ctx, 0) }

// Close ends all connections and waits for the goroutines. Closing twice is not an error.
func (p *Proxy) Close() {
	p.Refuse()
	p.update(func() { p.closed = true })
	p.end(FaultReset)
	p.pumps.Wait()
}

// update changes the state and wakes the goroutines that wait for a change.
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
			continue // the client has closed before Accept
		}
		p.pumps.Add(1)
		go func() {
			defer p.pumps.Done()
			p.serve(client.(*net.TCPConn))
		}()
	}
}

// serve connects to the server and runs the pumps.
func (p *Proxy) serve(client *net.TCPConn) {
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	server, err := net.Dial("tcp", target)
	if err != nil {
		_ = client.SetLinger(0) // there is no server: reset the client
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

// end makes a fault in all connections.
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
