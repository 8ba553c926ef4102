package check

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/session/state"
)

// SubscriberConfig says what to subscribe to.
type SubscriberConfig struct {
	// URL of the broker, mqtt://[user:password@]host:port.
	URL string

	// Filter is the topic filter, e.g. "demo/#".
	Filter string

	// QoS of the subscription: a message arrives at the lower one of this and what
	// it was published with.
	//
	//	0  fast, but the broker drops messages that we cannot receive in time
	//	1  after a lost connection messages arrive again, with the flag DUP
	//	2  each message that the broker accepted arrives once, also after a reconnect
	//
	// Choose 2 to verify exactly-once while connections break, and 1 for throughput.
	QoS byte

	// ClientID defaults to a random one.
	ClientID string

	// SessionExpiry is how long the broker keeps our session while we are disconnected.
	// Defaults to 10 minutes.
	SessionExpiry time.Duration

	// KeepAlive is how often an idle connection is probed. Defaults to 30 seconds.
	KeepAlive time.Duration

	// Expect is the approximate number of messages, to reserve memory. Optional.
	Expect int

	// Logger gets the log of the MQTT client. Defaults to none.
	Logger *slog.Logger
}

func (c SubscriberConfig) withDefaults() SubscriberConfig {
	if c.ClientID == "" {
		c.ClientID = "reactor-check-" + rand.Text()
	}
	if c.SessionExpiry == 0 {
		c.SessionExpiry = 10 * time.Minute
	}
	if c.KeepAlive == 0 {
		c.KeepAlive = 30 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Progress is a snapshot of a subscriber's counters.
type Progress struct {
	Messages int // all messages that arrived
	Distinct int // different job ids among them

	Connected  bool
	Reconnects int // successful connections after the first one

	// SessionsLost counts the reconnects at which the broker did not have our session any
	// more. We never receive the messages that it accepted between the loss of the
	// session and our new subscription. So if this is not 0, a job that Compare reports
	// as lost may have been published.
	SessionsLost int
}

// Subscriber records the messages of a topic filter. It reconnects by itself,
// with Clean Start 0, so that the broker keeps for it what arrives meanwhile.
//
// It uses the unchanged paho client on our own connection (see conn.go). The session of
// paho v0.23.0 has bugs in sending (quota, lost waiters, races), but they do not affect a
// client that only receives. When it receives at QoS 2, it keeps the ids of its PUBRECs
// over reconnects, and passes a repeated PUBLISH on only once. One bug does affect us: it
// never wakes the goroutine that waits for the answer to a SUBSCRIBE when the connection
// breaks. So we stop waiting ourselves when the connection has ended (whileConnected).
type Subscriber struct {
	cfg     SubscriberConfig
	server  *url.URL
	log     *slog.Logger
	session *stampingSession
	rec     recorder

	cancel context.CancelFunc
	done   chan struct{} // closed when run has returned

	mu           sync.Mutex // guards the connection's counters
	connected    bool
	connects     int
	sessionsLost int
}

// Subscribe connects, subscribes, and returns when the broker has confirmed the
// subscription. All messages that are published from then on are recorded. ctx applies
// only until Subscribe returns; Close ends the subscriber.
func Subscribe(ctx context.Context, cfg SubscriberConfig) (*Subscriber, error) {
	cfg = cfg.withDefaults()
	server, err := url.Parse(cfg.URL)
	switch {
	case err != nil:
		return nil, errors.New("subscriber: URL: not a URL") // err may contain a password
	case server.Scheme != "mqtt" && server.Scheme != "tcp":
		return nil, fmt.Errorf("subscriber: URL: scheme %q, want mqtt", server.Scheme)
	case cfg.Filter == "":
		return nil, errors.New("subscriber: Filter: is missing")
	case cfg.QoS > 2:
		return nil, fmt.Errorf("subscriber: QoS: %d is not 0, 1 or 2", cfg.QoS)
	}
	if server.Port() == "" {
		server.Host = net.JoinHostPort(server.Hostname(), "1883")
	}
	s := &Subscriber{
		cfg: cfg, server: server, log: cfg.Logger,
		session: &stampingSession{State: state.NewInMemory()},
		done:    make(chan struct{}),
	}
	s.rec.init(cfg.Expect)
	s.session.SetErrorLogger(pahoLogger{s.log, slog.LevelWarn})

	client, err := s.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("subscriber: %w", err)
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	go s.run(run, client)
	return s, nil
}

// Close ends the session at the broker, so that the broker keeps no messages for us. It
// returns when no more messages will be recorded. Closing twice is not an error.
func (s *Subscriber) Close() error {
	s.cancel()
	<-s.done
	return nil
}

// Received returns a copy of all messages so far, in order of arrival. The payloads are
// not copied and must not be changed.
func (s *Subscriber) Received() []Received { return s.rec.all() }

// Progress returns the current counters.
func (s *Subscriber) Progress() Progress {
	p := s.rec.progress()
	s.mu.Lock()
	defer s.mu.Unlock()
	p.Connected, p.Reconnects, p.SessionsLost = s.connected, max(s.connects-1, 0), s.sessionsLost
	return p
}

// WaitDistinct blocks until n different jobs have arrived, or ctx ends. In the latter
// case the error says how many have arrived.
func (s *Subscriber) WaitDistinct(ctx context.Context, n int) error {
	return s.rec.waitCount(ctx, n, func(p Progress) int { return p.Distinct })
}

// WaitMessages is like WaitDistinct, but counts messages: all copies, with or without id.
func (s *Subscriber) WaitMessages(ctx context.Context, n int) error {
	return s.rec.waitCount(ctx, n, func(p Progress) int { return p.Messages })
}

// WaitFor blocks until a certain job has arrived, or ctx ends.
func (s *Subscriber) WaitFor(ctx context.Context, id int64) error { return s.rec.waitFor(ctx, id) }

// run reconnects whenever the connection ends, until ctx ends. It owns the client.
func (s *Subscriber) run(ctx context.Context, client *paho.Client) {
	defer close(s.done)
	for {
		select {
		case <-client.Done():
			s.setConnected(false)
		case <-ctx.Done():
			s.unsubscribe(client)
			endSession := uint32(0)
			_ = client.Disconnect(&paho.Disconnect{
				Properties: &paho.DisconnectProperties{SessionExpiryInterval: &endSession},
			})
			s.setConnected(false)
			return
		}
		if client = s.reconnect(ctx); client == nil {
			return
		}
	}
}

// reconnect tries until it succeeds. It returns nil when ctx ends.
func (s *Subscriber) reconnect(ctx context.Context) *paho.Client {
	const shortest, longest = 5 * time.Millisecond, 250 * time.Millisecond
	pause := shortest
	for {
		client, err := s.connect(ctx)
		if err == nil {
			return client
		}
		s.log.Debug("subscriber cannot connect", "error", err, "again_in", pause)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause/2 + mathrand.N(pause)):
		}
		pause = min(2*pause, longest)
	}
}

// connect opens a connection. It subscribes if the broker may have no subscription for us:
//
//   - On the first connection, even if the broker has a session of this client id. An
//     earlier subscriber may have unsubscribed, and the broker may have been stopped before
//     it read the DISCONNECT that ends the session.
//   - Later, if the broker does not have the session any more.
func (s *Subscriber) connect(ctx context.Context) (*paho.Client, error) {
	var dialer net.Dialer
	raw, err := dialer.DialContext(ctx, "tcp", s.server.Host)
	if err != nil {
		return nil, err
	}
	conn := newBufferedConn(raw)
	client := paho.NewClient(paho.ClientConfig{
		ClientID: s.cfg.ClientID,
		Conn:     conn,
		Session:  s.session,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){
			func(m paho.PublishReceived) (bool, error) {
				s.rec.add(m.Packet)
				return true, nil
			},
		},
		OnClientError: func(err error) { s.log.Debug("subscriber's connection is lost", "error", err) },
		OnServerDisconnect: func(d *paho.Disconnect) {
			s.log.Debug("broker closes the subscriber's connection", "reason_code", d.ReasonCode)
		},
	})
	client.SetErrorLogger(pahoLogger{s.log, slog.LevelWarn})

	connack, err := client.Connect(ctx, s.connectPacket())
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	s.mu.Lock()
	first := s.connects == 0
	s.mu.Unlock()
	if first || !connack.SessionPresent {
		if err := s.subscribe(ctx, client); err != nil {
			_ = client.Disconnect(&paho.Disconnect{})
			return nil, fmt.Errorf("subscribe to %q: %w", s.cfg.Filter, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !first && !connack.SessionPresent {
		s.sessionsLost++
		s.log.Warn("broker lost the subscriber's session")
	}
	s.connects++
	s.connected = true
	return client, nil
}

func (s *Subscriber) connectPacket() *paho.Connect {
	receiveMaximum := uint16(65535)
	expiry := uint32(s.cfg.SessionExpiry / time.Second)
	cp := &paho.Connect{
		ClientID:   s.cfg.ClientID,
		CleanStart: false,
		KeepAlive:  uint16(min(max(s.cfg.KeepAlive/time.Second, 1), 65535)),
		Properties: &paho.ConnectProperties{
			ReceiveMaximum: &receiveMaximum, SessionExpiryInterval: &expiry,
			// Without it some brokers remove the user properties, and so the job id.
			RequestProblemInfo: true,
		},
	}
	if s.server.User != nil {
		cp.UsernameFlag, cp.Username = true, s.server.User.Username()
		if password, set := s.server.User.Password(); set {
			cp.PasswordFlag, cp.Password = true, []byte(password)
		}
	}
	return cp
}

func (s *Subscriber) subscribe(ctx context.Context, client *paho.Client) error {
	ctx, cancel := whileConnected(ctx, client)
	defer cancel()
	_, err := client.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{
		Topic: s.cfg.Filter, QoS: s.cfg.QoS,
		RetainAsPublished: true,
		RetainHandling:    2, // send no messages that were retained before we subscribed
	}}})
	return err
}

func (s *Subscriber) setConnected(up bool) {
	s.mu.Lock()
	s.connected = up
	s.mu.Unlock()
}

// unsubscribe stops the messages before the connection is closed. Closing a connection
// that has unread bytes resets it, and then the broker might not read the DISCONNECT that
// ends the session.
func (s *Subscriber) unsubscribe(client *paho.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	ctx, done := whileConnected(ctx, client)
	defer done()
	if _, err := client.Unsubscribe(ctx, &paho.Unsubscribe{Topics: []string{s.cfg.Filter}}); err != nil {
		s.log.Debug("subscriber cannot unsubscribe", "error", err)
	}
}

// whileConnected returns a context that also ends with the client's connection, because
// paho would go on waiting for an answer that cannot come any more.
func whileConnected(ctx context.Context, client *paho.Client) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-client.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}
