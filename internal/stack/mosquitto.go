package stack

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// ErrMosquittoNotFound: no Mosquitto is installed.
var ErrMosquittoNotFound = errors.New("no mosquitto found: install it (Debian, Ubuntu: apt-get install mosquitto)")

// MosquittoConfig says what broker to start. The zero value is an open broker on
// 127.0.0.1 that keeps its sessions in memory.
type MosquittoConfig struct {
	// Dir is where the broker lives: configuration, log and saved state. It must
	// be absent or empty; Close removes it. Defaults to a new folder under the
	// system's temporary folder.
	Dir string

	// Port on 127.0.0.1. Defaults to a free one.
	Port int

	// Binary is the program. Defaults to what FindMosquitto finds.
	Binary string

	// Persistence saves sessions and queued messages: at a proper stop, and every
	// Autosave. What happened since is lost by a kill.
	Persistence bool

	// Autosave is how often the state is saved, in whole seconds; it stops all
	// traffic for as long as that takes. Defaults to a second.
	Autosave time.Duration

	// MaxInflight is max_inflight_messages: how many messages may be between
	// PUBLISH and its last acknowledgement, each way, per session.
	// Mosquitto's own default of 20 is too small for throughput, and with no limit
	// its QoS 2 bookkeeping, a linear list, collapses. Defaults to 1000.
	MaxInflight int

	// Username and Password are required of clients. Defaults to letting all in.
	Username, Password string

	// AccessRules are the lines of its access control list (acl_file), in the form of
	// mosquitto.conf(5): "topic readwrite #", "topic deny secret/#". Defaults to none, by
	// which everything is allowed. Rules for topics are attached to a client when it connects:
	// after a restart Mosquitto 2.0.11 drops what comes for a subscriber that has a session
	// and is not back yet, unless a "pattern" rule allows it.
	AccessRules []string

	// ExtraLines of mosquitto.conf.
	ExtraLines []string

	// Logger gets progress lines. Defaults to none.
	Logger *slog.Logger
}

func (c MosquittoConfig) withDefaults() MosquittoConfig {
	if c.MaxInflight == 0 {
		c.MaxInflight = 1000
	}
	if c.Autosave == 0 {
		c.Autosave = time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c MosquittoConfig) validate() error {
	switch {
	case c.Port < 0 || c.Port > 65535:
		return fmt.Errorf("config: Port: %d is not a port", c.Port)
	case c.MaxInflight < 0 || c.MaxInflight > 65535:
		return fmt.Errorf("config: MaxInflight: %d is not in 1…65535", c.MaxInflight)
	case c.Autosave < time.Second:
		return fmt.Errorf("config: Autosave: %s is less than a second", c.Autosave)
	case strings.ContainsAny(c.Username+c.Password, ":\r\n"): // mosquitto_passwd would cut them there
		return errors.New("config: Username, Password: a colon or line break is not allowed")
	case c.Password != "" && c.Username == "":
		return errors.New("config: Username: missing, though there is a Password")
	}
	return nil
}

// Mosquitto is a broker of ours. Its methods may be called from any goroutine.
type Mosquitto struct {
	server
	cfg    MosquittoConfig
	binary string
}

// FindMosquitto returns the path of an installed mosquitto, or ErrMosquittoNotFound.
func FindMosquitto() (string, error) {
	path := lookProgram("mosquitto", "/usr/sbin", "/usr/local/sbin",
		"/opt/homebrew/sbin", "/opt/homebrew/opt/mosquitto/sbin", "/usr/local/opt/mosquitto/sbin")
	if path == "" {
		return "", ErrMosquittoNotFound
	}
	return path, nil
}

// StartMosquitto starts a broker and returns when it accepts MQTT connections.
// Without a deadline in ctx, a minute is allowed. When it fails nothing is left
// behind and the error carries the last lines of the broker's log.
func StartMosquitto(ctx context.Context, cfg MosquittoConfig) (*Mosquitto, error) {
	m, err := newMosquitto(cfg)
	if err == nil {
		// As root it would drop to this account by itself, but that change of identity
		// makes Linux forget the parent death signal.
		err = m.open(ctx, cfg.Dir, cfg.Port, m.writePasswords, "mosquitto")
	}
	if err != nil {
		return nil, fmt.Errorf("start mosquitto: %w", err)
	}
	return m, nil
}

func newMosquitto(cfg MosquittoConfig) (*Mosquitto, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	binary, err := givenOrFound(cfg.Binary, FindMosquitto)
	if err != nil {
		return nil, err
	}
	m := &Mosquitto{cfg: cfg, binary: binary}
	m.server = server{name: "mosquitto", kind: m, logger: cfg.Logger}
	return m, nil
}

// URL is mqtt://[user:password@]127.0.0.1:port.
func (m *Mosquitto) URL() string {
	u := url.URL{Scheme: "mqtt", Host: address(m.Port())}
	if m.cfg.Username != "" {
		u.User = url.UserPassword(m.cfg.Username, m.cfg.Password)
	}
	return u.String()
}

// Restart is Stop and Start.
func (m *Mosquitto) Restart(ctx context.Context) error {
	return errors.Join(m.Stop(), m.Start(ctx))
}

// Save has the broker save its state now (SIGUSR1), and returns when it has. It must have
// been started with Persistence.
func (m *Mosquitto) Save(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case !m.cfg.Persistence:
		return errors.New("save mosquitto: it was started without Persistence")
	case !m.running():
		return errors.New("save mosquitto: it does not run")
	}
	ctx, cancel := withStartTimeout(ctx)
	defer cancel()
	// It writes another file and renames that, so a save is a change of identity. That is
	// only sure while we hold the old one: its inode might be used again.
	before, err := os.Open(m.statePath())
	if err == nil {
		defer before.Close()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("save mosquitto: %w", err)
	}
	if err := m.proc.Signal(signalSave); err != nil {
		return fmt.Errorf("save mosquitto: %w", err)
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if changed, err := replaced(before, m.statePath()); err != nil || changed {
			return err
		}
		select {
		case <-tick.C:
		case <-m.proc.Done():
			return fmt.Errorf("save mosquitto: %w", errExited)
		case <-ctx.Done():
			return fmt.Errorf("save mosquitto: %w", ctx.Err())
		}
	}
}

// replaced reports whether another file is at path than before, where nil means none.
func replaced(before *os.File, path string) (bool, error) {
	now, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || before == nil {
		return err == nil, err
	}
	was, err := before.Stat()
	return err == nil && !os.SameFile(was, now), err
}

// Stop ends the broker properly; with Persistence it saves its state. An error
// means that it took too long and was killed.
func (m *Mosquitto) Stop() error { return m.stop(syscall.SIGTERM, stopGrace) }

func (m *Mosquitto) command() ProcessSpec {
	return ProcessSpec{Path: m.binary, Args: []string{"-c", m.configPath()}}
}

// ask opens an MQTT 5 session and closes it.
func (m *Mosquitto) ask(ctx context.Context) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address(m.port))
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	connect := packets.Connect{
		ProtocolName: "MQTT", ProtocolVersion: 5, CleanStart: true,
		ClientID:   "reactor-ready-" + rand.Text(),
		Properties: &packets.Properties{},
	}
	if m.cfg.Username != "" {
		connect.UsernameFlag, connect.Username = true, m.cfg.Username
		connect.PasswordFlag, connect.Password = true, []byte(m.cfg.Password)
	}
	if _, err := connect.WriteTo(conn); err != nil {
		return err
	}
	reply, err := packets.ReadPacket(conn)
	if err != nil {
		return err
	}
	connack, ok := reply.Content.(*packets.Connack)
	if !ok {
		return fmt.Errorf("%w: %s in answer to CONNECT", errPortLost, reply.PacketType())
	}
	if connack.ReasonCode != 0 {
		return fmt.Errorf("%w: CONNACK with reason %#x", errRefused, connack.ReasonCode)
	}
	disconnect := packets.Disconnect{Properties: &packets.Properties{}}
	_, err = disconnect.WriteTo(conn)
	return err
}
