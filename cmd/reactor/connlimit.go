package main

import (
	"container/list"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// A request for health or metrics has no body and a few headers, and its answer is a
	// few kilobytes.
	httpReadTimeout  = 5 * time.Second
	httpWriteTimeout = 10 * time.Second
	// httpIdleTimeout is longer than the usual pause between two requests.
	httpIdleTimeout    = 90 * time.Second
	maxHTTPHeader      = 16 << 10
	maxHTTPConnections = 64
)

// newServer serves health and metrics to everybody who can connect. So it limits how long a client
// may keep a connection, and how many connections there are.
func newServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: httpReadTimeout,
		// It starts at the same moment. Without it a request that announces a body and does not
		// send it would keep its connection until the kernel gives it up.
		ReadTimeout:    httpReadTimeout,
		WriteTimeout:   httpWriteTimeout,
		IdleTimeout:    httpIdleTimeout,
		MaxHeaderBytes: maxHTTPHeader,
		ConnState:      (&connLimit{most: maxHTTPConnections}).changed,
	}
}

// connLimit bounds the number of connections of a server: if there is one too many, it closes the
// connection that has been quiet for the longest time. If the server accepted no more connections
// instead, as with netutil.LimitListener, idle connections could block the probe that decides
// whether we are restarted.
type connLimit struct {
	most int

	mu    sync.Mutex
	quiet list.List                  // guarded by mu: of net.Conn, the one that has been quiet longest first
	place map[net.Conn]*list.Element // guarded by mu: the elements of quiet
}

// changed is called for each change of a connection's state (http.Server.ConnState).
func (c *connLimit) changed(conn net.Conn, state http.ConnState) {
	if surplus := c.note(conn, state); surplus != nil {
		surplus.Close() // the connection's own goroutine notices it, and calls changed
	}
}

// note returns a connection to close, or nil.
func (c *connLimit) note(conn net.Conn, state http.ConnState) (surplus net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew:
		if c.place == nil {
			c.place = make(map[net.Conn]*list.Element)
		}
		c.place[conn] = c.quiet.PushBack(conn)
		if c.quiet.Len() > c.most {
			surplus = c.quiet.Front().Value.(net.Conn)
			c.remove(surplus)
		}
	case http.StateActive, http.StateIdle:
		if e := c.place[conn]; e != nil {
			c.quiet.MoveToBack(e)
		}
	case http.StateClosed, http.StateHijacked:
		c.remove(conn)
	}
	return surplus
}

// remove forgets a connection. The caller holds mu.
func (c *connLimit) remove(conn net.Conn) {
	if e := c.place[conn]; e != nil {
		c.quiet.Remove(e)
		delete(c.place, conn)
	}
}
