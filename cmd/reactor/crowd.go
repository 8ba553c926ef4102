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
	// httpIdleTimeout is longer than the usual pause between two questions.
	httpIdleTimeout    = 90 * time.Second
	maxHTTPHeader      = 16 << 10
	maxHTTPConnections = 64
)

// newServer serves health and metrics, to anybody who can connect: nobody may hold
// connections for longer than they are of use, or so many that others get none.
func newServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: httpReadTimeout,
		// Counts from the same moment. Without it a request that announces a body and does not
		// send it holds its connection until the kernel gives it up.
		ReadTimeout:    httpReadTimeout,
		WriteTimeout:   httpWriteTimeout,
		IdleTimeout:    httpIdleTimeout,
		MaxHeaderBytes: maxHTTPHeader,
		ConnState:      (&crowd{most: maxHTTPConnections}).changed,
	}
}

// crowd bounds the connections of a server: where one is too many, the one that has been
// quiet for longest is closed. Not to accept any more, as netutil.LimitListener does, would
// let idle connections keep out the probe that decides whether we are restarted.
type crowd struct {
	most int

	mu    sync.Mutex
	quiet list.List                  // guarded by mu: of net.Conn, the longest quiet first
	place map[net.Conn]*list.Element // guarded by mu: in quiet
}

// changed is the server's ConnState.
func (c *crowd) changed(conn net.Conn, state http.ConnState) {
	if leaver := c.note(conn, state); leaver != nil {
		leaver.Close() // its own goroutine notices, and says so to changed
	}
}

// note returns a connection to close, or nil.
func (c *crowd) note(conn net.Conn, state http.ConnState) (leaver net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew:
		if c.place == nil {
			c.place = make(map[net.Conn]*list.Element)
		}
		c.place[conn] = c.quiet.PushBack(conn)
		if c.quiet.Len() > c.most {
			leaver = c.quiet.Front().Value.(net.Conn)
			c.remove(leaver)
		}
	case http.StateActive, http.StateIdle:
		if e := c.place[conn]; e != nil {
			c.quiet.MoveToBack(e)
		}
	case http.StateClosed, http.StateHijacked:
		c.remove(conn)
	}
	return leaver
}

// remove forgets a connection. The caller holds mu.
func (c *crowd) remove(conn net.Conn) {
	if e := c.place[conn]; e != nil {
		c.quiet.Remove(e)
		delete(c.place, conn)
	}
}
