package mqttsink

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor/driver"
)

// TestFailover: the sessions stay with a broker for as long as they are to, go to the next when it is
// gone, and return to the preferred one when it is back.
func TestFailover(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	primary, standby := testkit.OwnMosquitto(t, stack.MosquittoConfig{}), testkit.OwnMosquitto(t, stack.MosquittoConfig{})
	urls := primary.URL() + " , " + standby.URL() + "\n"
	patient := newSink(t, Config{URL: urls, FailoverAfter: time.Hour, Logger: testkit.Logger(t)})
	hasty := newSink(t, Config{URL: urls, FailoverAfter: AtOnce, Logger: testkit.Logger(t)})
	at := func(s driver.Session) string { return "mqtt://" + s.Limits().Broker }

	one, _ := open(t, ctx, patient, "patient", 2)
	other, _ := open(t, ctx, hasty, "hasty", 2)
	if at(one) != primary.URL() || at(other) != primary.URL() || one.Limits().Standby || other.ShouldLeave(ctx) {
		t.Fatalf("they are at %+v and %+v, want %s", one.Limits(), other.Limits(), primary.URL())
	}
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	<-one.Done()
	<-other.Done()
	for range 3 {
		if _, err := patient.Connect(ctx, driver.ConnectOptions{ClientID: "patient", QoS: 2, Acks: func([]driver.Ack) {}}); err == nil || !strings.Contains(err.Error(), "is the broker running") {
			t.Errorf("it went elsewhere before its time: %v", err)
		}
	}
	if _, err := hasty.Connect(ctx, driver.ConnectOptions{ClientID: "hasty", QoS: 2, Acks: func([]driver.Ack) {}}); err == nil {
		t.Error("a dead broker has accepted a session")
	}
	moved, _ := open(t, ctx, hasty, "hasty", 2)
	if at(moved) != standby.URL() || !moved.Limits().Standby {
		t.Fatalf("it is at %+v, want %s", moved.Limits(), standby.URL())
	}
	if moved.ShouldLeave(ctx) {
		t.Error("it is to return to a dead broker")
	}
	if err := primary.Start(ctx); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !moved.ShouldLeave(ctx) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("it does not return")
		}
	}
	if !moved.ShouldLeave(ctx) {
		t.Error("another session may stay")
	}
	back, _ := open(t, ctx, hasty, "hasty", 2)
	if at(back) != primary.URL() || back.Limits().Standby {
		t.Errorf("it is at %+v, want %s", back.Limits(), primary.URL())
	}

	// A lane whose connection has ended just then goes to the standby once more, for the messages whose
	// outcome is known only there, and leaves when they are settled; but not if the standby is gone.
	unsettled := driver.ConnectOptions{
		ClientID: "unsettled", QoS: 2, Broker: moved.Limits().Broker, Unsettled: true, Acks: func([]driver.Ack) {},
	}
	settles, err := hasty.Connect(ctx, unsettled)
	if err != nil || at(settles) != standby.URL() || !settles.Limits().Standby || !settles.ShouldLeave(ctx) {
		t.Fatalf("it is not at the standby to settle, and then to leave: %v", err)
	}
	if err := standby.Kill(); err != nil {
		t.Fatal(err)
	}
	<-settles.Done()
	if s, err := hasty.Connect(ctx, unsettled); err == nil {
		t.Errorf("it is at %+v at once, without having tried the standby", s.Limits())
	}
	lost, err := hasty.Connect(ctx, unsettled)
	if err != nil || at(lost) != primary.URL() {
		t.Fatalf("it waits for a standby that is gone: %v", err)
	}
	within(t, lost.Close)
}

// TestChoiceChangesMeanwhile: the others return to the preferred broker while a session is being opened at
// the standby. That session is told that it is at a standby, and leaves as well.
func TestChoiceChangesMeanwhile(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	there := testkit.Broker(t).URL()
	var sink *Sink
	sink = newSink(t, Config{URL: "mqtt://127.0.0.1:1," + there, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if "mqtt://"+address == there {
			sink.choice.mu.Lock()
			sink.choice.at, sink.choice.home = 0, 0
			sink.choice.mu.Unlock()
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}})
	sink.choice.at, sink.choice.home = 1, 1
	session, _ := open(t, ctx, sink, "meanwhile", 1)
	if "mqtt://"+session.Limits().Broker != there || !session.Limits().Standby || !session.ShouldLeave(ctx) {
		t.Errorf("it may stay: %+v", session.Limits())
	}
}

// TestFailoverAtTheStart: the first connection is made to whichever broker is there, and the error names all.
func TestFailoverAtTheStart(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	there := testkit.Broker(t).URL()
	session, _ := open(t, ctx, newSink(t, Config{URL: "mqtt://u:ses,ame@127.0.0.1:1," + there}), "start", 1)
	if "mqtt://"+session.Limits().Broker != there {
		t.Errorf("it is at %+v", session.Limits())
	}
	_, err := newSink(t, Config{URL: "mqtt://u:ses,ame@127.0.0.1:1,mqtt://127.0.0.1:2"}).Connect(ctx, driver.ConnectOptions{ClientID: "x", Acks: func([]driver.Ack) {}})
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1: connection refused") || !strings.Contains(err.Error(), "127.0.0.1:2: connection refused") ||
		strings.ContainsAny(err.Error(), "\n") || strings.Contains(err.Error(), "ame@") {
		t.Errorf("the error is %v", err)
	}
	for url, want := range map[string]string{
		"mqtt://a,mqtt://a:1883":          "names a:1883 twice",
		"mqtts://a,mqtt://b":              "with TLS and without",
		"ws://a/,wss://b/":                "with TLS and without",
		"mqtt://a,":                       "URL is not one of a broker",
		"mqtt://a,b":                      "URL is not one of a broker",
		"mqtt://u:sesame@a,http://u:1@b":  "URL is not one of a broker",
		"mqtt://u:sesame@a,mqtt://u:1@":   "URL is not one of a broker",
		"mqtt://u:sesame@a,mqtt://b:port": "URL is not one of a broker",
	} {
		if _, err := New(Config{URL: url}); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: %v, want %q", url, err, want)
		}
	}
}

// TestUnmarkedSessionElsewhere: a session without a mark that another broker has is not the lane's.
func TestUnmarkedSessionElsewhere(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	here := testkit.Broker(t).URL()
	address := strings.TrimPrefix(here, "mqtt://")
	sink := newSink(t, Config{URL: here + ",mqtt://127.0.0.1:1"})
	connect := func(s *Sink, opts driver.ConnectOptions) driver.Limits {
		t.Helper()
		opts.ClientID, opts.QoS, opts.Acks = t.Name(), 2, func([]driver.Ack) {}
		session, err := s.Connect(ctx, opts)
		if err != nil {
			t.Fatal(err)
		}
		within(t, session.Close)
		return session.Limits()
	}
	connect(sink, driver.ConnectOptions{Fresh: true})
	for name, test := range map[string]struct {
		limits driver.Limits
		want   bool
	}{
		"after another broker":       {connect(sink, driver.ConnectOptions{Broker: "elsewhere:1883"}), false},
		"after an earlier owner":     {connect(sink, driver.ConnectOptions{}), false},
		"after the same broker":      {connect(sink, driver.ConnectOptions{Broker: address}), true},
		"at a broker without others": {connect(newSink(t, Config{URL: here}), driver.ConnectOptions{}), true},
	} {
		if !test.limits.Present || test.limits.Resumed != test.want {
			t.Errorf("%s: %+v, want Resumed %t", name, test.limits, test.want)
		}
	}
}

// TestMarkFoundEverywhere: a broker that finds every subscription proves nothing. With several brokers a session
// there counts as the lane's only if the lane was there last.
func TestMarkFoundEverywhere(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	present := connack(t, 0, nil)
	present[2] = 1
	broker := startFakeBroker(t, func(_ int, p *packets.ControlPacket) reply {
		if p.Type == packets.CONNECT {
			return reply{packets: present}
		}
		return unsuback(p, codeSuccess)
	})
	sink := newSink(t, Config{URL: broker.url + ",mqtt://127.0.0.1:1"})
	for last, want := range map[string]bool{strings.TrimPrefix(broker.url, "mqtt://"): true, "elsewhere:1883": false, "": false} {
		s, err := sink.Connect(ctx, driver.ConnectOptions{ClientID: "x", QoS: 2, Mark: "ours", Broker: last, Acks: func([]driver.Ack) {}})
		if err != nil {
			t.Fatal(err)
		}
		wantLimits(t, "last at "+last, s, true, want, false)
		within(t, s.Close)
	}
}

// TestRedirects: a broker's reference is followed to brokers of the list, and to no other.
func TestRedirects(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	there := testkit.Broker(t).URL()
	address := strings.TrimPrefix(there, "mqtt://")
	refers := func(code byte, to string) *fakeBroker {
		return startFakeBroker(t, func(_ int, p *packets.ControlPacket) reply {
			if p.Type != packets.CONNECT {
				return reply{}
			}
			return reply{packets: connack(t, code, &packets.Properties{ServerReference: to}), closeNow: true}
		})
	}
	opts := driver.ConnectOptions{ClientID: "redirected", QoS: 1, Acks: func([]driver.Ack) {}}
	for name, code := range map[string]byte{"another server": packets.ConnackUseAnotherServer, "moved": packets.ConnackServerMoved} {
		session, err := newSink(t, Config{URL: refers(code, "nowhere.invalid "+address).url + "," + there}).Connect(ctx, opts)
		if err != nil || session.Limits().Broker != address {
			t.Fatalf("%s: %v", name, err)
		}
		if session.Limits().Standby || session.ShouldLeave(ctx) { // it would be sent here again, for ever
			t.Errorf("%s: it is to go back to the broker that has sent it away", name)
		}
		within(t, session.Close)
		_, err = newSink(t, Config{URL: refers(code, address).url}).Connect(ctx, opts)
		var refused *driver.ConnectRefusedError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), address) || !strings.Contains(err.Error(), "if it is one of mqttsink.Config.URL") {
			t.Errorf("%s: to a stranger: %v", name, err)
		}
	}
	if _, err := newSink(t, Config{URL: refers(packets.ConnackUseAnotherServer, "").url}).Connect(ctx, opts); err == nil || !strings.Contains(err.Error(), "does not say where") {
		t.Errorf("without a reference: %v", err)
	}

	// Two brokers that refer to each other.
	var oneURL atomic.Value
	other := startFakeBroker(t, func(int, *packets.ControlPacket) reply {
		return reply{packets: connack(t, packets.ConnackUseAnotherServer, &packets.Properties{ServerReference: strings.TrimPrefix(oneURL.Load().(string), "mqtt://")}), closeNow: true}
	})
	one := refers(packets.ConnackUseAnotherServer, strings.TrimPrefix(other.url, "mqtt://"))
	oneURL.Store(one.url)
	if _, err := newSink(t, Config{URL: one.url + "," + other.url, FailoverAfter: time.Hour}).Connect(ctx, opts); err == nil || !strings.Contains(err.Error(), "use another server") {
		t.Errorf("in a circle: %v", err)
	}

	// A broker that sends a connected client away.
	gone := startFakeBroker(t, func(_ int, p *packets.ControlPacket) reply {
		if p.Type != packets.CONNECT {
			return reply{}
		}
		away := encode(&packets.Disconnect{ReasonCode: packets.DisconnectServerMoved, Properties: &packets.Properties{ServerReference: address}})
		return reply{packets: slices.Concat(connack(t, 0, nil), away), closeNow: true}
	})
	sink := newSink(t, Config{URL: gone.url + "," + there, FailoverAfter: time.Hour})
	session, _ := open(t, ctx, sink, "sent away", 1)
	<-session.Done()
	var d *driver.DisconnectedError
	if !errors.As(session.Err(), &d) || !strings.Contains(d.Error(), address) {
		t.Errorf("the session ended with %v", session.Err())
	}
	if next, _ := open(t, ctx, sink, "sent away", 1); next.Limits().Broker != address || next.Limits().Standby || next.ShouldLeave(ctx) {
		t.Errorf("the next one is at %+v", next.Limits())
	}
}
