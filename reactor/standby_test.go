package reactor_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/job-publisher/reactor/internal/check"
	"github.com/job-publisher/reactor/internal/netfault"
	"github.com/job-publisher/reactor/internal/stack"
	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// subscribeAt subscribes to the world's messages at another broker.
func (w *world) subscribeAt(url string) *check.Subscriber {
	w.t.Helper()
	s, err := check.Subscribe(w.ctx, check.SubscriberConfig{URL: url, Filter: w.prefix + "/#", QoS: 2, ClientID: "judge", Logger: testkit.Logger(w.t)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { s.Close() })
	return s
}

// TestBrokerFailover: the primary is killed under load, two instances go on at the standby, and return
// when the primary is back, with sessions from before. No job is lost, none is sent twice whose outcome
// was known, and the return makes no outcome unknown.
func TestBrokerFailover(t *testing.T) {
	t.Parallel()
	primary := testkit.OwnMosquitto(t, stack.MosquittoConfig{Persistence: true, Autosave: time.Hour})
	standby := testkit.OwnMosquitto(t, stack.MosquittoConfig{})
	w := newWorld(t, "", primary.URL())
	second := w.subscribeAt(standby.URL())
	both := func(_ *pgsource.Config, s *mqttsink.Config) {
		s.URL, s.FailoverAfter = primary.URL()+","+standby.URL(), 500*time.Millisecond
	}
	instances := []*instance{w.start(reactor.Config{Lanes: 2}, both), w.start(reactor.Config{Lanes: 2}, both)}
	unknown := func() (n int64) {
		for _, in := range instances {
			n += in.Stats().OutcomesUnknown
		}
		return n
	}
	w.eventually("each lane's session is marked", "SELECT count(*) = 4 FROM reactor.lanes WHERE mark IS NOT NULL")
	if err := primary.Save(w.ctx); err != nil { // old sessions, to return to
		t.Fatal(err)
	}
	w.insert(3000, 0, 5*time.Second)
	if err := w.subscriber.WaitDistinct(w.ctx, 300); err != nil {
		t.Fatal(err)
	}
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := second.WaitDistinct(w.ctx, 300); err != nil {
		t.Fatal(err)
	}
	for _, in := range instances {
		w.until("all lanes are at the standby", func() bool { return in.Stats().LanesAtStandby == 2 })
	}
	before := unknown()
	if err := primary.Start(w.ctx); err != nil {
		t.Fatal(err)
	}
	for _, in := range instances {
		w.until("all lanes are at the primary", func() bool { return in.Stats().LanesUp > 0 && in.Stats().LanesAtStandby == 0 })
	}
	w.insert(500, 0, time.Second)
	w.eventually("all are processed", "SELECT NOT EXISTS (SELECT FROM jobs WHERE NOT processed) AND NOT EXISTS (SELECT FROM reactor.in_flight)")
	if after := unknown(); after != before {
		t.Errorf("the return has made %d outcomes unknown", after-before)
	}
	expected, err := check.ExpectedFromDB(w.ctx, w.db, "true")
	if err != nil {
		t.Fatal(err)
	}
	arrived := func() []check.Received { return append(w.subscriber.Received(), second.Received()...) }
	w.until("all have arrived", func() bool { return check.Compare(expected, arrived(), check.Config{}).Lost.Count == 0 })
	report := check.Compare(expected, arrived(), check.Config{})
	if report.Early.Count > 0 || int64(report.Duplicated.Count) > before {
		t.Errorf("%d outcomes were unknown, and the report is %+v", before, report)
	}
	t.Logf("%d at the primary, %d at the standby, %d outcomes unknown, %d twice", len(w.subscriber.Received()), len(second.Received()), before, report.Duplicated.Count)
}

// TestBrokerFailsAtMessages: the primary accepts connections, and closes each at its first message. The lanes
// go to the standby. When the primary works again they return, and their connections to the standby end
// just then, with messages in flight: they settle those at the standby first. (Nothing is staged: what only is has no
// unknown outcome.)
func TestBrokerFailsAtMessages(t *testing.T) {
	t.Parallel()
	primary, standby := testkit.OwnMosquitto(t, stack.MosquittoConfig{}), testkit.OwnMosquitto(t, stack.MosquittoConfig{})
	toPrimary, toStandby := testkit.NewProxy(t, primary.URL()), testkit.NewProxy(t, standby.URL())
	w := newWorld(t, "", primary.URL())
	second := w.subscribeAt(standby.URL())
	book := &logbook{}
	logger := slog.New(both{testkit.Logger(t).Handler(), slog.NewTextHandler(book, nil)})
	wire := tap(toPrimary)
	wire.cutAt(func(p tapped) bool { return p.kind == packets.PUBLISH && p.direction == netfault.ToServer })
	in := w.start(reactor.Config{Lanes: 2, Logger: logger, Stage: reactor.StageOff}, func(_ *pgsource.Config, s *mqttsink.Config) {
		s.URL, s.FailoverAfter = toPrimary.Through(primary.URL())+","+toStandby.Through(standby.URL()), 500*time.Millisecond
	})
	w.insert(200, 0, time.Second)
	if err := second.WaitDistinct(w.ctx, 200); err != nil {
		t.Fatal(err)
	}
	processed := "SELECT NOT EXISTS (SELECT FROM jobs WHERE NOT processed) AND NOT EXISTS (SELECT FROM reactor.in_flight)"
	w.eventually("all are processed at the standby", processed)

	unknown := in.Stats().OutcomesUnknown
	toStandby.Stall(netfault.ToClient)
	w.insert(50, 0, 0)
	w.until("messages are in flight at the standby", func() bool { return in.Stats().Unacknowledged > 0 })
	wire.cutAt(nil)
	w.until("they are to return", func() bool { return len(book.lines("returning to it")) > 0 })
	toStandby.Cut()
	toStandby.Resume(netfault.ToClient)
	w.until("all lanes are at the primary", func() bool { return in.Stats().LanesUp == 2 && in.Stats().LanesAtStandby == 0 })
	w.insert(50, 0, 0)
	w.eventually("all are processed", processed)
	if n := in.Stats().OutcomesUnknown; n != unknown {
		t.Errorf("the return has made %d outcomes unknown", n-unknown)
	}
	expected, err := check.ExpectedFromDB(w.ctx, w.db, "true")
	if err != nil {
		t.Fatal(err)
	}
	arrived := func() []check.Received { return append(w.subscriber.Received(), second.Received()...) }
	w.until("all have arrived", func() bool { return check.Compare(expected, arrived(), check.Config{}).Lost.Count == 0 })
	if report := check.Compare(expected, arrived(), check.Config{}); report.Early.Count > 0 || report.Duplicated.Count > 0 {
		t.Errorf("the report is %+v", report)
	}
}
