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

// ErrMosquittoNotFound is the error if no Mosquitto is installed.
var ErrMosquittoNotFound = errors.New("no mosquitto found: install it (Debian, Ubuntu: apt-get install mosquitto)")

// MosquittoConfig configures a broker. The zero value is a broker on 127.0.0.1 without access
// control that keeps its sessions in memory.
type MosquittoConfig struct {
	// Dir is the folder of configuration, log and saved state. It must be absent or
	// empty; Close removes it. Defaults to a new folder under the system's temporary
	// folder.
	Dir string

	// Port on 127.0.0.1. Defaults to a free one.
	Port int

	// Binary is the path of the program. Defaults to the result of FindMosquitto.
	Binary string

	// Persistence saves sessions and queued messages: at a clean stop, and every
	// Autosave. A kill loses the changes since the last save.
	Persistence bool

	// Autosave is how often the state is saved, in whole seconds. The broker handles no
	// messages during a save. Defaults to a second.
	Autosave time.Duration

	// MaxInflight is max_inflight_messages: how many messages of a session and direction
	// may be between PUBLISH and the last acknowledgement. Mosquitto's default of 20 is
	// too small for throughput. Without a limit it becomes very slow at QoS 2, because it
	// searches a linear list of these messages. Defaults to 1000.
	MaxInflight int

	// Username and Password are what clients must send. By default every client may
	// connect.
	Username, Password string

	// AccessRules are the lines of its access control list (acl_file), in the format of
	// mosquitto.conf(5): "topic readwrite #", "topic deny secret/#". Without rules everything
	// is allowed. Mosquitto applies "topic" rules to a client when it connects. So after a
	// restart, Mosquitto 2.0.11 drops messages for a subscriber that has a session but has not
	// connected again yet, unless a "pattern" rule allows them.
	AccessRules []string

	// ExtraLines are added to mosquitto.conf.
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

// Mosquitto is a broker that this process has started. Its methods may be called from any
// goroutine.
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

// StartMosquitto starts a broker and returns when it accepts MQTT connections. If ctx has
// no deadline, the timeout is a minute. After an error nothing is left, and the error
// contains the last lines of the broker's log.
func StartMosquitto(ctx context.Context, cfg MosquittoConfig) (*Mosquitto, error) {
	m, err := newMosquitto(cfg)
	if err == nil {
		// Started as root, Mosquitto would change to this account itself. But when a process
		// changes its account, Linux clears its parent death signal.
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

// Restart calls Stop and Start.
func (m *Mosquitto) Restart(ctx context.Context) error {
	return errors.Join(m.Stop(), m.Start(ctx))
}

// ChangePassword restarts the broker with another password. It must not be called together with
// another method.
func (m *Mosquitto) ChangePassword(ctx context.Context, password string) error {
	if err := m.Stop(); err != nil {
		return err
	}
	m.cfg.Password = password
	if err := errors.Join(m.cfg.validate(), m.writePasswords(ctx)); err != nil {
		return fmt.Errorf("change the password of mosquitto: %w", err)
	}
	return m.Start(ctx)
}

// Save makes the broker save its state (SIGUSR1), and returns when it has done so. The
// broker must have been started with Persistence.
func (m *Mosquitto) Save(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case !m.cfg.Persistence:
		return errors.New("save mosquitto: it was started without Persistence")
	case !m.running():
		return errors.New("save mosquitto: it is not running")
	}
	ctx, cancel := withStartTimeout(ctx)
	defer cancel()
	// The broker writes a new file and renames it, so after a save the path has another
	// inode. Keep the old file open: otherwise the new one could get the same inode number.
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

// replaced reports whether path is another file than before. If before is nil, there was no
// file.
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

// Stop stops the broker cleanly; with Persistence it saves its state. An error means that
// the stop took too long and the broker was killed.
func (m *Mosquitto) Stop() error { return m.stop(syscall.SIGTERM, stopGrace) }

func (m *Mosquitto) command() ProcessSpec {
	return ProcessSpec{Path: m.binary, Args: []string{"-c", m.configPath()}}
}

// ping connects with MQTT 5 and disconnects.
func (m *Mosquitto) ping(ctx context.Context) error {
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
