package mqttsink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor/driver"
)

// secured is a Mosquitto with a listener for each kind of certificate. Its plain listener is the one
// of the kit.
type secured struct {
	authority *testkit.Authority
	// Listeners: with a good certificate; with one that wants ours; with an expired one; with one of
	// another name; the last two are WebSockets, without and with TLS.
	good, mutual, expired, named, webSocket, secureWebSocket string
}

func startSecured(t *testing.T) secured {
	t.Helper()
	s := secured{authority: testkit.NewAuthority(t)}
	good := s.authority.Issue(t, "127.0.0.1")
	old := s.authority.IssueUntil(t, time.Now().Add(-time.Minute), "127.0.0.1")
	named := s.authority.Issue(t, "broker.test")
	var lines []string
	listener := func(scheme string, cert *testkit.Certificate, more ...string) string {
		port, err := stack.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("listener %d 127.0.0.1", port))
		if cert != nil {
			lines = append(lines, "cafile "+s.authority.CAFile, "certfile "+cert.CertFile, "keyfile "+cert.KeyFile)
		}
		lines = append(lines, more...)
		return fmt.Sprintf("%s://127.0.0.1:%d", scheme, port)
	}
	s.good = listener("mqtts", &good)
	s.mutual = listener("mqtts", &good, "require_certificate true")
	s.expired = listener("mqtts", &old)
	s.named = listener("mqtts", &named)
	s.webSocket = listener("ws", nil, "protocol websockets")
	s.secureWebSocket = listener("wss", &good, "protocol websockets")
	testkit.OwnMosquitto(t, stack.MosquittoConfig{ExtraLines: lines})
	return s
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ctx, s := testContext(t), startSecured(t)
	stranger := testkit.NewAuthority(t)
	ours, theirs := s.authority.Issue(t, "reactor"), stranger.Issue(t, "reactor")
	ca := s.authority.CAFile
	for name, test := range map[string]struct {
		cfg  Config
		want string // in the error; "": there is none
	}{
		"good":                 {Config{URL: s.good, CAFile: ca}, ""},
		"system's authorities": {Config{URL: s.good}, "authority that has signed the broker's by mqttsink.Config.CAFile"},
		"other authority":      {Config{URL: s.good, CAFile: stranger.CAFile}, "mqttsink.Config.CAFile"},
		"expired":              {Config{URL: s.expired, CAFile: ca}, "renew the broker's certificate"},
		"other name":           {Config{URL: s.named, CAFile: ca}, "mqttsink.Config.ServerName"},
		"that name":            {Config{URL: s.named, CAFile: ca, ServerName: "broker.test"}, ""},
		"mutual":               {Config{URL: s.mutual, CAFile: ca, CertFile: ours.CertFile, KeyFile: ours.KeyFile}, ""},
		"without ours":         {Config{URL: s.mutual, CAFile: ca}, "a certificate of ours"},
		"with a stranger's":    {Config{URL: s.mutual, CAFile: ca, CertFile: theirs.CertFile, KeyFile: theirs.KeyFile}, "a certificate of ours"},
		"not TLS":              {Config{URL: strings.Replace(s.webSocket, "ws:", "mqtts:", 1), CAFile: ca}, "TLS failed"},
		"WebSocket":            {Config{URL: s.webSocket}, ""},
		"secure WebSocket":     {Config{URL: s.secureWebSocket, CAFile: ca}, ""},
		"WebSocket, stranger":  {Config{URL: s.secureWebSocket, CAFile: stranger.CAFile}, "mqttsink.Config.CAFile"},
		"WebSocket to MQTT":    {Config{URL: strings.Replace(s.good, "mqtts:", "wss:", 1), CAFile: ca}, "does not answer as a web server does"},
		"MQTT to WebSocket":    {Config{URL: strings.Replace(s.webSocket, "ws:", "mqtt:", 1), ConnectTimeout: 2 * time.Second}, "a WebSocket"},
	} {
		session, err := newSink(t, test.cfg).Connect(ctx, driver.ConnectOptions{ClientID: name, QoS: 2, Acks: func([]driver.Ack) {}})
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.want == "":
			if err := session.Close(ctx); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n"):
			t.Errorf("%s: %v, want one line with %q", name, err, test.want)
		}
	}
}

// TestWebSocketCarriesAll: what a lane does, in a WebSocket: many messages, one that is larger than
// anything's buffer, a mark, the question when messages are passed on, a resumed session.
func TestWebSocketCarriesAll(t *testing.T) {
	t.Parallel()
	ctx, s := testContext(t), startSecured(t)
	sink := newSink(t, Config{URL: s.secureWebSocket, CAFile: s.authority.CAFile})
	if err := sink.CheckIdentity(ctx, "", 2); err != nil {
		t.Fatal(err)
	}
	session, acks := open(t, ctx, sink, "x", 2)
	msgs := messages("web/socket", 2, 900)
	msgs[450].Payload = make([]byte, 3<<20)
	publishAll(t, ctx, session, acks, msgs)
	if err := session.Mark(ctx, "mark"); err != nil {
		t.Error(err)
	}
	for { // on a busy machine it may not be sure at first
		passing, err := session.PassesOn(ctx)
		if passing == driver.PassesOnAtRelease {
			break
		}
		if !errors.Is(err, errTooSlow) || ctx.Err() != nil {
			t.Fatalf("passes on: %v, %v", passing, err)
		}
	}
	if err := session.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
	again, err := sink.Connect(ctx, driver.ConnectOptions{ClientID: "x", QoS: 2, Mark: "mark", Acks: func([]driver.Ack) {}})
	if err != nil {
		t.Fatal(err)
	}
	if !again.Limits().Marked {
		t.Errorf("the limits are %+v, want a session with its mark", again.Limits())
	}
	if err := again.Discard(ctx); err != nil {
		t.Errorf("discard: %v", err)
	}
}

// TestFilesAreReadAtEachConnect: certificates, authorities and a password change while the sink is in use.
// While what they say cannot be used, what they said before is.
func TestFilesAreReadAtEachConnect(t *testing.T) {
	t.Parallel()
	ctx, s := testContext(t), startSecured(t)
	stranger := testkit.NewAuthority(t)
	guarded := testkit.OwnMosquitto(t, stack.MosquittoConfig{Username: "reactor", Password: "sesame"})
	ours, theirs := s.authority.Issue(t, "reactor"), stranger.Issue(t, "reactor")
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	put := func(name, from string) {
		t.Helper()
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		testkit.WriteFile(t, path(name), content)
	}
	put("ca", s.authority.CAFile)
	put("cert", ours.CertFile)
	put("key", ours.KeyFile)
	testkit.WriteFile(t, path("user"), []byte("reactor\n"))
	testkit.WriteFile(t, path("password"), []byte("sesame\r\n"))
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	mutual := newSink(t, Config{URL: s.mutual, CAFile: path("ca"), CertFile: path("cert"), KeyFile: path("key"), Logger: logger})
	login := newSink(t, Config{URL: strings.Replace(guarded.URL(), "reactor:sesame@", "", 1), UsernameFile: path("user"), PasswordFile: path("password"), Logger: logger})

	connects := func(what string, sink *Sink, want bool) {
		t.Helper()
		session, err := sink.Connect(ctx, driver.ConnectOptions{ClientID: "x", QoS: 1, Acks: func([]driver.Ack) {}})
		if (err == nil) != want {
			t.Errorf("%s: %v", what, err)
		}
		if err == nil {
			within(t, session.Close)
		}
	}
	connects("at first", mutual, true)
	put("cert", theirs.CertFile)
	connects("a certificate without its key", mutual, true)
	connects("the same again", mutual, true)
	put("key", theirs.KeyFile)
	connects("a certificate of a stranger", mutual, false)
	put("cert", ours.CertFile)
	put("key", ours.KeyFile)
	connects("ours again", mutual, true)
	testkit.WriteFile(t, path("ca"), []byte("no certificate"))
	connects("a broken authority", mutual, true)
	put("ca", stranger.CAFile)
	connects("another authority", mutual, false)
	put("ca", s.authority.CAFile)
	connects("the authority again", mutual, true)

	connects("with the password", login, true)
	testkit.WriteFile(t, path("password"), []byte("sesame-street"))
	connects("with another password", login, false)
	testkit.WriteFile(t, path("password"), []byte("\n"))
	connects("with an empty file", login, false)
	testkit.WriteFile(t, path("password"), []byte("sesame"))
	connects("with the password again", login, true)
	if err := os.Remove(path("password")); err != nil {
		t.Fatal(err)
	}
	connects("without the file", login, true)
	if text := log.String(); strings.Contains(text, "sesame") || strings.Count(text, "private key does not match") != 1 ||
		!strings.Contains(text, "no certificate in PEM format") || !strings.Contains(text, "what it says now is in use") {
		t.Errorf("the log is\n%s", text)
	}
}

func within(t *testing.T, end func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := end(ctx); err != nil {
		t.Error(err)
	}
}
