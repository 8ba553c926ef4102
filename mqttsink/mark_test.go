package mqttsink

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor/driver"
)

// connectMarked connects as the owner of a lane that has left a mark.
func connectMarked(t *testing.T, ctx context.Context, url, clientID, mark string) *session {
	t.Helper()
	s, err := newSink(t, Config{URL: url}).Connect(ctx, driver.ConnectOptions{
		ClientID: clientID, QoS: 2, Mark: mark, Acks: func([]driver.Ack) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(ctx) })
	return s.(*session)
}

// leave marks the session of a client id, and closes its connection.
func leave(t *testing.T, ctx context.Context, url, clientID, mark string) {
	t.Helper()
	s := connectMarked(t, ctx, url, clientID, "")
	if err := s.Mark(ctx, mark); err != nil {
		t.Fatal(err)
	}
	closed(t, ctx, s)
}

func closed(t *testing.T, ctx context.Context, s driver.Session) {
	t.Helper()
	if err := s.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

func wantLimits(t *testing.T, when string, s driver.Session, present, resumed, marked bool) {
	t.Helper()
	if l := s.Limits(); l.Present != present || l.Resumed != resumed || l.Marked != marked {
		t.Errorf("%s: present %t, resumed %t, marked %t", when, l.Present, l.Resumed, l.Marked)
	}
}

func TestMark(t *testing.T) {
	ctx := testContext(t)
	url, id := testkit.Broker(t).URL(), testkit.TopicPrefix(t)
	wantLimits(t, "new, a mark is asked for", connectMarked(t, ctx, url, id+"/new", "m"), false, false, false)

	leave(t, ctx, url, id, "ours")
	for range 3 { // asking does not use it up
		s := connectMarked(t, ctx, url, id, "ours")
		wantLimits(t, "our session", s, true, true, true)
		closed(t, ctx, s)
	}
	s := connectMarked(t, ctx, url, id, "another's")
	wantLimits(t, "another session", s, true, false, false)
	closed(t, ctx, s)
	wantLimits(t, "no mark is asked for", connectMarked(t, ctx, url, id, ""), true, true, false)

	fresh, err := newSink(t, Config{URL: url}).Connect(ctx, driver.ConnectOptions{ClientID: id, QoS: 2, Fresh: true, Mark: "ours"})
	if err != nil {
		t.Fatal(err)
	}
	wantLimits(t, "fresh", fresh, false, false, false)
	closed(t, ctx, fresh)
	s = connectMarked(t, ctx, url, id, "ours")
	wantLimits(t, "after a fresh one", s, true, false, false)
	for s.Limits().Present {
		if err := s.Discard(ctx); err != nil {
			t.Fatal("a discarded session is still there: ", err)
		}
		s = connectMarked(t, ctx, url, id, "ours")
	}
}

// TestMarkSurvivesInterruptions: three times in a row the connection is cut after the broker has
// removed a subscription of the mark, or restored it; the fourth connection finds the mark
// nevertheless, and restores it completely.
func TestMarkSurvivesInterruptions(t *testing.T) {
	ctx := testContext(t)
	broker, id := testkit.Broker(t).URL(), testkit.TopicPrefix(t)
	proxy := testkit.NewProxy(t, broker)
	throughProxy := newSink(t, Config{URL: proxy.Through(broker)})
	leave(t, ctx, broker, id, "ours")
	for name, lost := range map[string]func(answer []byte) bool{
		"taken away": func(answer []byte) bool {
			return answer[0]>>4 == packets.UNSUBACK && answer[len(answer)-1] == codeSuccess
		},
		"put back": func(answer []byte) bool { return answer[0]>>4 == packets.SUBACK },
	} {
		for range markCopies - 1 {
			proxy.SetHook(func(c netfault.Chunk) netfault.Verdict {
				if c.Direction == netfault.ToClient && lost(c.Data) {
					return netfault.Verdict{Forward: 0, Then: netfault.FaultCut}
				}
				return netfault.Verdict{}
			})
			_, err := throughProxy.Connect(ctx, driver.ConnectOptions{ClientID: id, QoS: 2, Mark: "ours"})
			var refused *driver.ConnectRefusedError
			if err == nil || errors.As(err, &refused) || !strings.Contains(err.Error(), "whether the session is ours") {
				t.Fatalf("cut off when it was %s: %v", name, err)
			}
		}
		proxy.SetHook(nil)
		s := connectMarked(t, ctx, broker, id, "ours")
		wantLimits(t, "after it was "+name, s, true, true, true)
		for i := range markCopies {
			codes, err := s.unsubscribe(ctx, markFilter("ours", i+1))
			if err != nil || codes[0] != codeSuccess {
				t.Errorf("after it was %s: copy %d: %v, %v", name, i+1, codes, err)
			}
			if _, err := s.subscribe(ctx, markFilter("ours", i+1)); err != nil {
				t.Fatal(err)
			}
		}
		closed(t, ctx, s)
	}
}

// TestMarkOfAnUsedUpSession: if all subscriptions of the mark are gone, the session does not count
// as ours.
func TestMarkOfAnUsedUpSession(t *testing.T) {
	ctx := testContext(t)
	broker, id := testkit.Broker(t).URL(), testkit.TopicPrefix(t)
	leave(t, ctx, broker, id, "ours")
	s := connectMarked(t, ctx, broker, id, "")
	for i := range markCopies {
		if _, err := s.unsubscribe(ctx, markFilter("ours", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	closed(t, ctx, s)
	wantLimits(t, "used up", connectMarked(t, ctx, broker, id, "ours"), true, false, false)
}

// TestMarkAndTheBrokersMemory: what each way of restarting a broker does to a session, and what the
// mark shows.
func TestMarkAndTheBrokersMemory(t *testing.T) {
	const never = 24 * time.Hour
	t.Run("lost, and created again by somebody", func(t *testing.T) {
		ctx := testContext(t)
		broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{})
		leave(t, ctx, broker.URL(), "x", "ours")
		restart(t, ctx, broker, broker.Kill)
		closed(t, ctx, connectMarked(t, ctx, broker.URL(), "x", "")) // it dies before it can record the loss
		wantLimits(t, "the second session", connectMarked(t, ctx, broker.URL(), "x", "ours"), true, false, false)
	})
	t.Run("stopped and started", func(t *testing.T) {
		ctx := testContext(t)
		broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{Persistence: true, Autosave: never})
		leave(t, ctx, broker.URL(), "x", "ours")
		restart(t, ctx, broker, broker.Stop)
		wantLimits(t, "saved", connectMarked(t, ctx, broker.URL(), "x", "ours"), true, true, true)
	})
	t.Run("restored from before the mark", func(t *testing.T) {
		ctx := testContext(t)
		broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{Persistence: true, Autosave: never})
		leave(t, ctx, broker.URL(), "x", "old")
		restart(t, ctx, broker, broker.Stop)
		fresh, err := newSink(t, Config{URL: broker.URL()}).Connect(ctx, driver.ConnectOptions{ClientID: "x", QoS: 2, Fresh: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := fresh.Mark(ctx, "ours"); err != nil {
			t.Fatal(err)
		}
		restart(t, ctx, broker, broker.Kill)
		s := connectMarked(t, ctx, broker.URL(), "x", "ours")
		wantLimits(t, "an old save", s, true, false, false)
		closed(t, ctx, s)
		wantLimits(t, "the old mark", connectMarked(t, ctx, broker.URL(), "x", "old"), true, true, true)
	})
	// This is a limit of marks: the lane must not rely on Resumed here.
	t.Run("restored from after the mark, without the newest messages", func(t *testing.T) {
		ctx := testContext(t)
		broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{Persistence: true, Autosave: never})
		leave(t, ctx, broker.URL(), "x", "ours")
		restart(t, ctx, broker, broker.Stop)
		session, acks := open(t, ctx, newSink(t, Config{URL: broker.URL()}), "x", 2)
		if err := session.Publish(messages("x", 2, 1)); err != nil {
			t.Fatal(err)
		}
		acks.wait(t, ctx, 1)
		restart(t, ctx, broker, broker.Kill)
		wantLimits(t, "a newer save", connectMarked(t, ctx, broker.URL(), "x", "ours"), true, true, true)
		session, acks = open(t, ctx, newSink(t, Config{URL: broker.URL()}), "x", 2)
		if err := session.Release([]driver.Slot{1}); err != nil {
			t.Fatal(err)
		}
		if a := acks.wait(t, ctx, 1)[0]; a.Step != driver.Released || a.Refused() {
			t.Errorf("the release of a message that it has lost: %+v; mosquitto 2.0 calls it a success", a)
		}
	})
}

func restart(t *testing.T, ctx context.Context, broker *stack.Mosquitto, end func() error) {
	t.Helper()
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if err := broker.Start(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestMarkNotAllowed: mosquitto with a rule that forbids subscriptions. The lane can go on over the
// same session.
func TestMarkNotAllowed(t *testing.T) {
	ctx := testContext(t)
	rules := filepath.Join(t.TempDir(), "rules.json")
	const deny = `{"defaultACLAccess":{"publishClientSend":true,"publishClientReceive":true,"subscribe":false,"unsubscribe":true}}`
	if err := os.WriteFile(rules, []byte(deny), 0o644); err != nil {
		t.Fatal(err)
	}
	for dir := rules; dir != os.TempDir() && len(dir) > 1; dir = filepath.Dir(dir) { // mosquitto runs as another user
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	broker := testkit.OwnMosquitto(t, stack.MosquittoConfig{ExtraLines: []string{
		"plugin " + dynamicSecurity(t), "plugin_opt_config_file " + rules,
	}})
	session, acks := open(t, ctx, newSink(t, Config{URL: broker.URL()}), "x", 1)
	err := session.Mark(ctx, "ours")
	if !errors.Is(err, driver.ErrCannotMark) || !strings.Contains(err.Error(), "reactor/session/#") || !strings.Contains(err.Error(), "not authorized") {
		t.Errorf("marking where it is not allowed: %v", err)
	}
	publishAll(t, ctx, session, acks, messages("x", 1, 10))
}

// dynamicSecurity finds mosquitto's plugin for such rules. Its acl_file cannot forbid
// subscriptions.
func dynamicSecurity(t *testing.T) string {
	t.Helper()
	for _, pattern := range []string{"/usr/lib/*/mosquitto_dynamic_security.so", "/usr/lib/mosquitto_dynamic_security.so", "/opt/homebrew/lib/mosquitto_dynamic_security.so"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[0]
		}
	}
	t.Fatal("mosquitto's dynamic security plugin is not installed")
	return ""
}

// TestBrokersThatCannotMark: all answers that a broker may give to the questions.
func TestBrokersThatCannotMark(t *testing.T) {
	disconnect := func(code byte) reply {
		return reply{packets: []byte{packets.DISCONNECT << 4, 1, code}, closeNow: true}
	}
	for name, test := range map[string]struct {
		answer func(kept *subscriptions, p *packets.ControlPacket) reply
		want   string
		ends   bool // the session
	}{
		"always says that there was one": {func(_ *subscriptions, p *packets.ControlPacket) reply {
			if p.Type == packets.UNSUBSCRIBE {
				return unsuback(p, codeSuccess)
			}
			return suback(p, 0, 0, 0, 0, 0)
		}, "never existed", false},
		"always says that there was none": {func(kept *subscriptions, p *packets.ControlPacket) reply {
			r := kept.answer(p)
			if p.Type == packets.UNSUBSCRIBE {
				return unsuback(p, slices.Repeat([]byte{codeNoSubscription}, len(p.Content.(*packets.Unsubscribe).Topics))...)
			}
			return r
		}, "does not find what it has granted", false},
		"refuses one of them": {func(kept *subscriptions, p *packets.ControlPacket) reply {
			r := kept.answer(p)
			if p.Type == packets.SUBSCRIBE {
				return suback(p, 0, 0, 0, 0x97, 0)
			}
			return r
		}, "quota exceeded", false},
		"refuses to unsubscribe": {func(_ *subscriptions, p *packets.ControlPacket) reply {
			return unsuback(p, codeNotAuthorized)
		}, "reactor/session/#", false},
		"disconnects a client that subscribes": {func(kept *subscriptions, p *packets.ControlPacket) reply {
			if p.Type == packets.SUBSCRIBE {
				return disconnect(codeNotAuthorized)
			}
			return kept.answer(p)
		}, "reactor/session/#", true},
		"disconnects a client that unsubscribes": {func(_ *subscriptions, p *packets.ControlPacket) reply {
			return disconnect(packets.DisconnectProtocolError)
		}, "protocol error", true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := testContext(t)
			kept := &subscriptions{}
			broker := startFakeBroker(t, func(_ int, p *packets.ControlPacket) reply {
				if p.Type == packets.SUBSCRIBE || p.Type == packets.UNSUBSCRIBE {
					return test.answer(kept, p)
				}
				return reply{}
			})
			s, _ := open(t, ctx, newSink(t, Config{URL: broker.url}), "x", 2)
			err := s.Mark(ctx, "ours")
			if !errors.Is(err, driver.ErrCannotMark) || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, want one line with %q", err, test.want)
			}
			if n := kept.count(); n > 0 && !test.ends {
				t.Errorf("%d subscriptions are left", n)
			}
			if !test.ends {
				if err := s.Publish(messages("x", 2, 1)); err != nil {
					t.Errorf("the session cannot be used: %v", err)
				}
			}
		})
	}
}

// TestBrokerThatHangsUpOnMarks: a connection that ends without a DISCONNECT may have been ended by
// the network, so only the third one in a row counts as an answer, if a probe is treated alike.
func TestBrokerThatHangsUpOnMarks(t *testing.T) {
	ctx := testContext(t)
	broker := startFakeBroker(t, func(_ int, p *packets.ControlPacket) reply {
		return reply{closeNow: p.Type == packets.UNSUBSCRIBE}
	})
	sink := newSink(t, Config{URL: broker.url})
	for try := 1; try <= 2*closesInARow; try++ {
		for _, id := range []string{"a", "b"} {
			s, _ := open(t, ctx, sink, id, 2)
			if err := s.Mark(ctx, "ours"); err == nil || errors.Is(err, driver.ErrCannotMark) != (try >= closesInARow) {
				t.Errorf("%s, try %d: %v", id, try, err)
			}
		}
	}
}

// TestMarkWhileTakenOver: somebody else connects with the client id each time that its session is
// to be marked, and Mosquitto closes the connection without a word. That is no answer to the mark,
// however often it happens: a lane that believed that it cannot mark would trust the other's session.
func TestMarkWhileTakenOver(t *testing.T) {
	ctx := testContext(t)
	broker, id := testkit.Broker(t).URL(), testkit.TopicPrefix(t)
	rival := newSink(t, Config{URL: broker})
	var others []driver.Session
	for name, during := range map[string]byte{"asking": packets.UNSUBSCRIBE, "subscribing": packets.SUBSCRIBE} {
		proxy := testkit.NewProxy(t, broker)
		sink := newSink(t, Config{URL: proxy.Through(broker)})
		for range 2 * closesInARow {
			session, _ := open(t, ctx, sink, id, 2)
			var once sync.Once
			proxy.SetHook(func(c netfault.Chunk) netfault.Verdict {
				if c.Direction == netfault.ToServer && c.Data[0]>>4 == during {
					once.Do(func() {
						other, err := rival.Connect(ctx, driver.ConnectOptions{ClientID: id, QoS: 2, Acks: func([]driver.Ack) {}})
						if err != nil {
							t.Errorf("taking over: %v", err)
							return
						}
						others = append(others, other)
					})
				}
				return netfault.Verdict{}
			})
			if err := session.Mark(ctx, "ours"); err == nil || errors.Is(err, driver.ErrCannotMark) {
				t.Errorf("%s: %v, want an error that says nothing about marks", name, err)
			}
			<-session.Done()
			proxy.SetHook(nil)
		}
	}
	for _, other := range others {
		_ = other.Close(ctx)
	}
}

func TestMarksThatNobodyMayUse(t *testing.T) {
	ctx := testContext(t)
	s := connectMarked(t, ctx, testkit.Broker(t).URL(), testkit.TopicPrefix(t), "")
	for _, mark := range []string{"", "a/#", "+", "\x00"} {
		if err := s.Mark(ctx, mark); err == nil || errors.Is(err, driver.ErrCannotMark) {
			t.Errorf("mark %q: %v", mark, err)
		}
	}
}

// TestRecognizing: a broker may have begun to refuse something since the mark was left.
func TestRecognizing(t *testing.T) {
	present := connack(t, 0, nil)
	present[2] = 1
	ask := func(t *testing.T, answer func(p *packets.ControlPacket) reply) (driver.Session, error) {
		broker := startFakeBroker(t, func(_ int, p *packets.ControlPacket) reply {
			if p.Type == packets.CONNECT {
				return reply{packets: present}
			}
			return answer(p)
		})
		return newSink(t, Config{URL: broker.url, ConnectTimeout: time.Second}).Connect(testContext(t), driver.ConnectOptions{ClientID: "x", QoS: 2, Mark: "ours"})
	}
	t.Run("to unsubscribe", func(t *testing.T) {
		_, err := ask(t, func(p *packets.ControlPacket) reply { return unsuback(p, codeNotAuthorized) })
		var refused *driver.ConnectRefusedError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), "reactor/session/#") {
			t.Errorf("connecting yields %v, want a refusal with the remedy", err)
		}
	})
	t.Run("to subscribe again", func(t *testing.T) {
		s, err := ask(t, func(p *packets.ControlPacket) reply {
			if p.Type == packets.SUBSCRIBE {
				return suback(p, codeNotAuthorized)
			}
			return unsuback(p, codeSuccess)
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close(testContext(t)) }()
		wantLimits(t, "a mark that is not whole", s, true, true, false)
	})
	t.Run("an answer", func(t *testing.T) {
		_, err := ask(t, func(*packets.ControlPacket) reply { return reply{} })
		if err == nil || !strings.Contains(err.Error(), "within 1s whether it is ours") {
			t.Errorf("a broker that does not answer: %v", err)
		}
	})
	t.Run("answers that fit no question", func(t *testing.T) {
		_, err := ask(t, func(p *packets.ControlPacket) reply { return unsuback(p, codeSuccess, codeSuccess) })
		if err == nil || !strings.Contains(err.Error(), "protocol error") {
			t.Errorf("two reason codes for one filter: %v", err)
		}
	})
}

// TestStrangersMessages: any client may publish to the topic of a mark. That costs only the
// reading; an answer is necessary only for a QoS that a lane never subscribes with.
func TestStrangersMessages(t *testing.T) {
	ctx := testContext(t)
	broker, id := testkit.Broker(t).URL(), testkit.TopicPrefix(t)
	sink := newSink(t, Config{URL: broker})
	session, acks := open(t, ctx, sink, id, 2)
	if err := session.Mark(ctx, "strangers"); err != nil {
		t.Fatal(err)
	}
	stranger, theirs := open(t, ctx, sink, id+"/stranger", 1)
	msgs := messages(markFilter("strangers", 1), 1, 20)
	msgs[7].Payload = make([]byte, 2*maxReceived) // the broker keeps it to itself: CONNECT says so
	publishAll(t, ctx, stranger, theirs, msgs)
	if err := session.Publish(messages(id, 2, 5)); err != nil {
		t.Fatal(err)
	}
	acks.wait(t, ctx, 5)
	closed(t, ctx, session)

	fake := startFakeBroker(t, func(_ int, p *packets.ControlPacket) reply {
		return reply{packets: append(connack(t, 0, nil), encode(&packets.Publish{QoS: 1, PacketID: 1, Topic: "x", Properties: &packets.Properties{}})...)}
	})
	s, _ := open(t, ctx, newSink(t, Config{URL: fake.url}), "x", 2)
	<-s.Done()
	if err := s.Err(); err == nil || !strings.Contains(err.Error(), "unexpected PUBLISH") {
		t.Errorf("after a message that wants an answer: %v", err)
	}
}

// TestLateAnswer: an answer that arrives after its request has been given up is ignored.
func TestLateAnswer(t *testing.T) {
	ctx := testContext(t)
	asked, late := make(chan struct{}), make(chan struct{})
	broker := startFakeBroker(t, func(_ int, p *packets.ControlPacket) reply {
		if p.Type == packets.UNSUBSCRIBE {
			close(asked)
			<-late
			return unsuback(p, codeNoSubscription)
		}
		return reply{}
	})
	s, _ := open(t, ctx, newSink(t, Config{URL: broker.url}), "x", 2)
	impatient, giveUp := context.WithCancel(ctx)
	go func() {
		<-asked
		giveUp()
	}()
	if err := s.Mark(impatient, "ours"); !errors.Is(err, context.Canceled) {
		t.Errorf("marking yields %v", err)
	}
	close(late)
	closed(t, ctx, s)
}
