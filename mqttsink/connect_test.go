package mqttsink

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor/driver"
)

func TestConnectExplains(t *testing.T) {
	ctx := testContext(t)
	guarded := testkit.OwnMosquitto(t, stack.MosquittoConfig{Username: "reactor", Password: "sesame"})
	plain := testkit.Broker(t).URL()
	maxQoS, noExpiry := byte(0), uint32(0)
	for name, test := range map[string]struct {
		url, want string
		refused   bool
	}{
		"wrong password":   {strings.Replace(guarded.URL(), "sesame", "sesame-street", 1), "check user and password", true},
		"no login":         {strings.Replace(guarded.URL(), "reactor:sesame@", "", 1), "not authorized", true},
		"nobody there":     {"mqtt://u:sesame@127.0.0.1:1", "is the broker running", false},
		"no such host":     {"mqtt://u:sesame@nowhere.invalid", "cannot find the host", false},
		"tls to plain":     {strings.Replace(plain, "mqtt://", "mqtts://", 1), "TLS failed", false},
		"a web server":     {scripted(t, []byte("HTTP/1.1 400 Bad Request\r\n\r\n")), "check the port", false},
		"silent":           {scripted(t, nil), "does not answer", false},
		"mqtt 3.1.1":       {scripted(t, []byte{0x20, 2, 0, 1}), "does not speak MQTT 5", true},
		"busy":             {scripted(t, connack(t, packets.ConnackServerBusy, nil)), "server busy", false},
		"only QoS 0":       {scripted(t, connack(t, 0, &packets.Properties{MaximumQOS: &maxQoS})), "Config.Delivery to AtMostOnce", true},
		"keeps no session": {scripted(t, connack(t, 0, &packets.Properties{SessionExpiryInterval: &noExpiry})), "let it keep sessions", true},
		"something else":   {scripted(t, []byte{0xD0, 0}), "does not answer as", false},
		"client id banned": {scripted(t, connack(t, packets.ConnackInvalidClientID, nil)), "client id", true},
	} {
		sink := newSink(t, Config{URL: test.url, ConnectTimeout: time.Second})
		_, err := sink.Connect(ctx, driver.ConnectOptions{ClientID: "x", QoS: 2, Acks: func([]driver.Ack) {}})
		var refused *driver.ConnectRefusedError
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: %v, want one line with %q and no password", name, err, test.want)
		} else if errors.As(err, &refused) != test.refused {
			t.Errorf("%s: refused is not %t: %v", name, test.refused, err)
		}
	}
	right, _ := open(t, ctx, newSink(t, Config{URL: guarded.URL()}), "x", 1)
	if right.Limits().InFlight != 1000 { // mosquitto's, as the test kit sets it
		t.Errorf("limits are %+v", right.Limits())
	}
	generous := &packets.Properties{}
	for qos, want := range map[byte]int{2: 384, 1: 1024} {
		session, _ := open(t, ctx, newSink(t, Config{URL: scripted(t, connack(t, 0, generous))}), "x", qos)
		if got := session.Limits().InFlight; got != want {
			t.Errorf("%v: %d in flight where the broker sets no limit, want %d", qos, got, want)
		}
	}
}

func TestConfig(t *testing.T) {
	for name, test := range map[string]struct {
		cfg  Config
		want string
	}{
		"no url":       {Config{}, "URL is empty"},
		"scheme":       {Config{URL: "http://u:sesame@x"}, "must begin with mqtt://"},
		"a fragment":   {Config{URL: "ws://u:12#sesame@x:8083/mqtt"}, "URL is not"},
		"only space":   {Config{URL: " \n"}, "URL is empty"},
		"no host":      {Config{URL: "mqtt://"}, "URL is not"},
		"control user": {Config{URL: "mqtt://x", Username: "a\nb"}, "Username has a control character"},
		"strange user": {Config{URL: "mqtt://a%FFb@x"}, "Username has a control character"},
		"two lines":    {Config{URL: "mqtt://u:ses\name@x"}, "URL is not"},
		"bad password": {Config{URL: "mqtt://u:ses%ame@x"}, "%-encoded"},
		"keep alive":   {Config{URL: "mqtt://x", KeepAlive: time.Millisecond}, "KeepAlive"},
		"in flight":    {Config{URL: "mqtt://x", InFlight: -1}, "InFlight"},
	} {
		if _, err := New(test.cfg); err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "ses") {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	s := newSink(t, Config{URL: "mqtts://u:p@[::1]", Username: "other"})
	if b := s.choice.brokers[0]; b.address != "[::1]:8883" || b.login.username != "other" || b.login.password != "p" || !b.secure {
		t.Errorf("parsed %+v", b)
	}
	for _, read := range []string{"mqtt://host\n", "\tmqtt://host:1883/ \r\n"} { // as a file has it
		if b := newSink(t, Config{URL: read}).choice.brokers[0]; b.address != "host:1883" {
			t.Errorf("%q: parsed %+v", read, b)
		}
	}
}

// TestBrokerDisconnects: every way in which a broker can end a session.
func TestBrokerDisconnects(t *testing.T) {
	ctx := testContext(t)
	for name, test := range map[string]struct {
		bytes []byte
		want  string
	}{
		"taken over":  {[]byte{0xE0, 1, packets.DisconnectSessionTakenOver}, "taken over"},
		"shutting":    {[]byte{0xE0, 1, packets.DisconnectServerShuttingDown}, "shutting down"},
		"a publish":   {[]byte{0x30, 3, 0, 1, 'x'}, ""},
		"truncated":   {[]byte{0x40, 10, 0}, "closed the connection"},
		"nonsense":    {[]byte{0x00, 0x00}, ""},
		"hangs up":    {[]byte{}, "closed the connection"},
		"ack, hangup": {[]byte{0x40, 2, 0, 7}, "closed the connection"},
	} {
		session, acks := open(t, ctx, newSink(t, Config{URL: scripted(t, append(connack(t, 0, nil), test.bytes...), thenClose)}), "x", 1)
		<-session.Done()
		if err := session.Err(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
		if taken := name == "taken over"; errors.Is(session.Err(), driver.ErrSessionTakenOver) != taken {
			t.Errorf("%s: is a take-over: %t", name, !taken)
		}
		if name == "ack, hangup" && acks.wait(t, ctx, 1)[0].Slot != 7 {
			t.Errorf("the last acknowledgement was lost")
		}
	}
}

type scriptOption bool

const thenClose scriptOption = true

// scripted is a server for behaviour that no real broker shows: it reads the CONNECT, answers with
// the bytes, and then sends nothing more, or closes the connection.
func scripted(t *testing.T, answer []byte, options ...scriptOption) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		stop := context.AfterFunc(t.Context(), func() { conn.Close() })
		defer stop()
		if _, err := packets.ReadPacket(conn); err != nil {
			return
		}
		_, _ = conn.Write(answer)
		if len(options) == 0 {
			_, _ = io.Copy(io.Discard, conn)
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	return "mqtt://" + listener.Addr().String()
}

func connack(t *testing.T, code byte, properties *packets.Properties) []byte {
	t.Helper()
	if properties == nil {
		properties = &packets.Properties{}
	}
	var b strings.Builder
	if _, err := (&packets.Connack{ReasonCode: code, Properties: properties}).WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return []byte(b.String())
}

// TestErrorsKeepTheirCause: an error with a text of ours still unwraps to the error of the system.
func TestErrorsKeepTheirCause(t *testing.T) {
	for name, test := range map[string]struct {
		url   string
		cause error
	}{
		"refused": {"mqtt://127.0.0.1:1", syscall.ECONNREFUSED},
		"silent":  {scripted(t, nil), errConnectTimeout},
	} {
		_, err := newSink(t, Config{URL: test.url, ConnectTimeout: 100 * time.Millisecond}).Connect(testContext(t), driver.ConnectOptions{ClientID: "x", QoS: 1, Acks: func([]driver.Ack) {}})
		if !errors.Is(err, test.cause) {
			t.Errorf("%s: %v is not %v", name, err, test.cause)
		}
	}
}
