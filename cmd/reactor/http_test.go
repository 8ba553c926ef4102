package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
	"github.com/job-publisher/reactor/reactor/driver"
)

// serveHTTP serves the health of an instance that is not running.
func serveHTTP(t *testing.T) (address string) {
	t.Helper()
	source, err := pgsource.New(pgsource.Config{DatabaseURL: "postgres://localhost"})
	if err != nil {
		t.Fatal(err)
	}
	sink, err := mqttsink.New(mqttsink.Config{URL: "mqtt://localhost"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := reactor.New(source, sink, reactor.Config{})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, ended := newServer(handler(r)), make(chan error)
	go func() { ended <- server.Serve(listener) }()
	t.Cleanup(func() {
		// Shutdown waits for all connections; Close does not.
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

// raw opens a connection and sends a text.
func raw(t *testing.T, address, text string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestHalfRequests: the server soon closes a connection with an incomplete request.
func TestHalfRequests(t *testing.T) {
	t.Parallel()
	address := serveHTTP(t)
	for name, text := range map[string]string{
		"nothing":      "",
		"half a line":  "GET /heal",
		"half headers": "GET /healthz HTTP/1.1\r\nHost: x\r\n",
		"no body":      "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n",
		"half a body":  "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc",
		"no chunk":     "PUT /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := raw(t, address, text)
			conn.SetReadDeadline(time.Now().Add(httpReadTimeout + 3*time.Second))
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the connection is open after %v", httpReadTimeout+3*time.Second)
			}
		})
	}
}

// TestIdleConnectionsKeepNobodyOut: idle connections do not block new ones, whether they have sent no
// request, one request, or a part of one.
func TestIdleConnectionsKeepNobodyOut(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	address := serveHTTP(t)
	conns := make([]net.Conn, 3*maxHTTPConnections)
	for i := range conns {
		switch i % 3 {
		case 0:
			conns[i] = raw(t, address, "")
		case 1:
			conns[i] = raw(t, address, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
			if resp, err := http.ReadResponse(bufio.NewReader(conns[i]), nil); err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("connection %d: %v, %v", i, resp, err)
			}
		case 2:
			conns[i] = raw(t, address, "GET /healthz HTTP/1.1\r\n")
		}
	}
	begun := time.Now()
	if code, _ := get(t, ctx, "http://"+address+"/healthz"); code != http.StatusOK {
		t.Errorf("the answer is %d", code)
	}
	if took := time.Since(begun); took > httpReadTimeout/2 {
		t.Errorf("the answer took %v", took)
	}
	// As many connections as necessary were closed, long before their timeouts.
	ended := make(chan error, len(conns))
	for _, conn := range conns {
		conn.SetReadDeadline(begun.Add(httpReadTimeout * 4 / 5))
		go func() {
			_, err := io.Copy(io.Discard, conn)
			ended <- err
		}()
	}
	gone := len(conns) + 1 - maxHTTPConnections
	for i := range conns {
		if err := <-ended; i < gone && errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%d of %d connections were closed, want %d", i, len(conns), gone)
		}
		if i == gone-1 { // the others stay open
			for _, conn := range conns {
				conn.Close()
			}
		}
	}
}

func TestLargeHeadersAreRefused(t *testing.T) {
	conn := raw(t, serveHTTP(t), "GET /healthz HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("x", 2*maxHTTPHeader)+"\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("the answer is %+v, %v", resp, err)
	}
}

// TestHealthInFlagTerms: the health names flags, not fields, because its readers know the flags.
func TestHealthInFlagTerms(t *testing.T) {
	answer := httptest.NewRecorder()
	writeHealth(answer, reactor.Stats{Feed: driver.FeedState{Problem: "give pgsource.Config.ListenURL"}}, 200)
	if text := answer.Body.String(); strings.Count(text, "give --listen-url") != 2 || strings.Contains(text, "pgsource.Config") {
		t.Error(text)
	}
	if !json.Valid(answer.Body.Bytes()) {
		t.Error("it is not JSON")
	}
}
