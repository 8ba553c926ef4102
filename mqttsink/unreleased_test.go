package mqttsink

import (
	"bufio"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/job-publisher/reactor/reactor/driver"
)

// brokenConn is a connection whose writes fail after some bytes.
type brokenConn struct {
	net.Conn
	takes int
	wrote chan struct{} // closed when a write has succeeded
}

func (c *brokenConn) Write(b []byte) (int, error) {
	n := min(len(b), c.takes)
	if c.takes -= n; n < len(b) {
		return n, errors.New("broken")
	}
	close(c.wrote)
	return n, nil
}

// TestUnreleased: Unreleased returns releases that were certainly not sent, and none that may have
// been.
func TestUnreleased(t *testing.T) {
	slots := []driver.Slot{5, 6, 7}
	for name, test := range map[string]struct {
		takes int
		want  []driver.Slot
	}{
		"nothing was written":    {0, slots},
		"something was written":  {1, nil},
		"everything was written": {1 << 20, nil},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			conn := &brokenConn{near, test.takes, make(chan struct{})}
			sink := newSink(t, Config{URL: "mqtt://127.0.0.1:1"})
			s := sink.choice.brokers[0].newSession(conn, bufio.NewReader(conn), driver.ConnectOptions{Acks: func([]driver.Ack) {}}, terms{keepAlive: time.Minute}, sink.choice.brokers[0])
			if err := s.Release(slots); err != nil {
				t.Fatal(err)
			}
			select {
			case <-conn.wrote:
				far.Close()
			case <-s.Done():
			}
			<-s.Done()
			if got := s.Unreleased(); !slices.Equal(got, test.want) {
				t.Errorf("unreleased: %v, want %v", got, test.want)
			}
			if s.Release(slots) == nil {
				t.Error("a session that is over takes releases")
			}
			far.Close()
		})
	}
}
