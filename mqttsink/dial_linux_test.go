package mqttsink

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"golang.org/x/sys/unix"

	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/testkit"
)

// TestBrokersHostIsGone: the broker's system acknowledges nothing any more. That is noticed after
// WriteTimeout, long before KeepAlive, whether something was sent or not.
func TestBrokersHostIsGone(t *testing.T) {
	for name, busy := range map[string]bool{"idle": false, "busy": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(testContext(t))
			listener, accept := listen(t), connack(t, 0, nil)
			gone := make(chan error, 1)
			served := make(chan struct{})
			go func() {
				defer close(served)
				conn, err := listener.Accept()
				if err != nil {
					gone <- err
					return
				}
				defer conn.Close()
				if _, err = packets.ReadPacket(conn); err == nil {
					if _, err = conn.Write(accept); err == nil {
						err = netfault.Blackhole(conn.(*net.TCPConn))
					}
				}
				gone <- err
				<-ctx.Done()
			}()
			t.Cleanup(func() {
				cancel()
				listener.Close()
				<-served
			})
			session, _ := open(t, ctx, newSink(t, Config{URL: "mqtt://" + listener.Addr().String(), WriteTimeout: 2 * time.Second}), "x", 1)
			if err := <-gone; err != nil {
				t.Fatal(err)
			}
			if busy {
				if err := session.Publish(messages("x", 1, 10)); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case <-session.Done():
			case <-ctx.Done():
				t.Fatal("the session still waits for a host that is gone")
			}
			if err := session.Err(); !strings.Contains(err.Error(), "acknowledged nothing for 2s") {
				t.Errorf("the session ended with %v", err)
			}
		})
	}
}

// TestHardenedThroughDial: connections of Config.Dial get the same options.
func TestHardenedThroughDial(t *testing.T) {
	ctx := testContext(t)
	var dialled net.Conn
	sink := newSink(t, Config{URL: testkit.Broker(t).URL(), Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		var err error
		dialled, err = (&net.Dialer{KeepAlive: -1}).DialContext(ctx, network, address)
		return dialled, err
	}})
	open(t, ctx, sink, testkit.TopicPrefix(t), 1)
	raw, err := dialled.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	get := func(level, option int) (value int) {
		err := raw.Control(func(fd uintptr) { value, _ = unix.GetsockoptInt(int(fd), level, option) })
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
	if ms := get(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); ms != 6000 {
		t.Errorf("what is sent may be unacknowledged for %d ms", ms)
	}
	idle, interval, count := get(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE), get(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL), get(unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
	if get(unix.SOL_SOCKET, unix.SO_KEEPALIVE) == 0 || idle+interval*count != 6 {
		t.Errorf("probes after %d s, every %d s, %d of them", idle, interval, count)
	}
}
