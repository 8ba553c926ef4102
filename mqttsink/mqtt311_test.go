package mqttsink

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/reactor/driver"
)

// versioned is a server that calls a function for each connection, with its number and the protocol
// version of its CONNECT.
func versioned(t *testing.T, serve func(n, version int, conn net.Conn)) string {
	t.Helper()
	listener := listen(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 1; ; n++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			head := make([]byte, 9)
			if _, err := io.ReadFull(conn, head); err == nil {
				if head[1] >= 0x80 { // two bytes of length
					_, _ = io.ReadFull(conn, head[8:9])
				}
				_, _ = bufio.NewReader(conn).Peek(int(head[1]) - 7)
				serve(n, int(head[8]), conn)
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	return "mqtt://" + listener.Addr().String()
}

// TestBrokerOfMQTT311: a broker that closes the connection at MQTT 5 is tried with MQTT 3.1.1.
func TestBrokerOfMQTT311(t *testing.T) {
	ctx := testContext(t)
	connect := func(url string) error {
		s, err := newSink(t, Config{URL: url}).Connect(ctx, driver.ConnectOptions{ClientID: "x", QoS: 2})
		if err == nil {
			_ = s.Close(ctx)
		}
		return err
	}
	for name, answer := range map[string][]byte{"lets us in": {0x20, 2, 0, 0}, "wants a password": {0x20, 2, 0, 5}} {
		var conns atomic.Int32
		err := connect(versioned(t, func(_, version int, conn net.Conn) {
			conns.Add(1)
			if version == 4 {
				_, _ = conn.Write(answer)
			}
		}))
		var refused *driver.ConnectRefusedError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), "MQTT 3.1.1") || conns.Load() != 3 {
			t.Errorf("one that %s: %v, after %d connections", name, err, conns.Load())
		}
	}
	// A server that closes every connection may be anything.
	err := connect(versioned(t, func(int, int, net.Conn) {}))
	if err == nil || !strings.Contains(err.Error(), "TLS") || !strings.Contains(err.Error(), "MQTT 5") {
		t.Errorf("one that hangs up on everybody: %v, want both possibilities", err)
	}
	// A broker that was still starting.
	accept := connack(t, 0, nil)
	err = connect(versioned(t, func(n, version int, conn net.Conn) {
		switch {
		case version == 4:
			_, _ = conn.Write([]byte{packets.CONNACK << 4, 2, 0, 0})
		case n > 1:
			_, _ = conn.Write(accept)
			_, _ = io.Copy(io.Discard, conn)
		}
	}))
	if err != nil {
		t.Errorf("one that was being started: %v", err)
	}
}

// TestHangUpLater: a broker that has accepted a session before is not tried with MQTT 3.1.1.
func TestHangUpLater(t *testing.T) {
	ctx := testContext(t)
	accept := connack(t, 0, nil)
	var conns atomic.Int32
	sink := newSink(t, Config{URL: versioned(t, func(n, version int, conn net.Conn) {
		if conns.Add(1) == 1 {
			_, _ = conn.Write(accept)
			_, _ = io.Copy(io.Discard, conn)
		}
	})})
	s, err := sink.Connect(ctx, driver.ConnectOptions{ClientID: "x", QoS: 2})
	if err != nil {
		t.Fatal(err)
	}
	closed(t, ctx, s)
	var refused *driver.ConnectRefusedError
	if _, err := sink.Connect(ctx, driver.ConnectOptions{ClientID: "x", QoS: 2}); err == nil || errors.As(err, &refused) {
		t.Errorf("connecting yields %v", err)
	}
	if n := conns.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}
