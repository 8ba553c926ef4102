package stack

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
	cfg    MosquittoConfig
	log    *slog.Logger
	binary string
	who    account
	dir    string

	mu     sync.Mutex // guards what follows, and makes starts and stops take turns
	port   int
	proc   *Process // nil before the first start; then the last process, perhaps gone
	closed bool
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
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("start mosquitto: %w", err)
	}
	m := &Mosquitto{cfg: cfg, log: cfg.Logger, binary: cfg.Binary}
	var err error
	if m.binary == "" {
		m.binary, err = FindMosquitto()
	} else {
		_, err = os.Stat(m.binary)
	}
	if err != nil {
		return nil, fmt.Errorf("start mosquitto: %w", err)
	}
	// As root it would drop to this account by itself, but that change of identity
	// makes Linux forget the parent death signal.
	if m.who, err = unprivileged("mosquitto"); err != nil {
		return nil, fmt.Errorf("start mosquitto: %w", err)
	}
	if m.dir, err = prepareDir(cfg.Dir, "reactor-mosquitto-", m.who); err != nil {
		return nil, fmt.Errorf("start mosquitto: %w", err)
	}
	ctx, cancel := withStartTimeout(ctx)
	defer cancel()
	if err = m.writePasswords(ctx); err == nil {
		err = m.firstStart(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start mosquitto: %w", err), m.Close())
	}
	m.log.Info("mosquitto started", "port", m.port, "pid", m.Pid(), "dir", m.dir)
	return m, nil
}

// firstStart finds the port.
func (m *Mosquitto) firstStart(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return onFreePort(ctx, m.cfg.Port, func(port int) error {
		m.port = port
		if err := m.writeConfig(); err != nil {
			return err
		}
		return m.start(ctx)
	})
}

// URL is mqtt://[user:password@]127.0.0.1:port.
func (m *Mosquitto) URL() string {
	u := url.URL{Scheme: "mqtt", Host: address(m.Port())}
	if m.cfg.Username != "" {
		u.User = url.UserPassword(m.cfg.Username, m.cfg.Password)
	}
	return u.String()
}

// Port on 127.0.0.1. It stays the same over restarts.
func (m *Mosquitto) Port() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.port
}

// Pid of the broker, the last one if it does not run.
func (m *Mosquitto) Pid() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.proc == nil {
		return 0
	}
	return m.proc.Pid()
}

// Dir is the broker's directory.
func (m *Mosquitto) Dir() string { return m.dir }

// LogPath is the file of the broker's log, over all its starts.
func (m *Mosquitto) LogPath() string { return filepath.Join(m.dir, "mosquitto.log") }

// Start starts a stopped or killed broker on its port and saved state, and returns
// when it accepts connections. A running broker is left alone.
func (m *Mosquitto) Start(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errors.New("start mosquitto: it is closed")
	}
	ctx, cancel := withStartTimeout(ctx)
	defer cancel()
	if err := m.start(ctx); err != nil {
		return fmt.Errorf("start mosquitto: %w", err)
	}
	return nil
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
	if err := m.proc.Signal(syscall.SIGUSR1); err != nil {
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
func (m *Mosquitto) Stop() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.end(syscall.SIGTERM)
}

// Kill ends the broker with SIGKILL and returns when it is gone.
func (m *Mosquitto) Kill() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.end(syscall.SIGKILL)
}

// Close stops the broker and removes its directory. Closing twice is no error.
func (m *Mosquitto) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	err := m.end(syscall.SIGTERM)
	return errors.Join(err, os.RemoveAll(m.dir))
}

func (m *Mosquitto) running() bool {
	if m.proc == nil {
		return false
	}
	select {
	case <-m.proc.Done():
		return false
	default:
		return true
	}
}

// start runs the broker on m.port. Caller holds m.mu.
func (m *Mosquitto) start(ctx context.Context) error {
	if m.running() {
		return nil
	}
	log, err := os.OpenFile(m.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own
	proc, err := StartProcess(ProcessSpec{
		Path: m.binary, Args: []string{"-c", m.configPath()},
		Dir: m.dir, Env: serverEnv(), Credential: m.who.cred,
		Stdout: log, Stderr: log,
	})
	if err != nil {
		return err
	}
	m.proc = proc
	if err := awaitReady(ctx, proc, m.ask); err != nil {
		_ = m.end(syscall.SIGKILL)
		return fmt.Errorf("on port %d: %w; the last lines of its log:\n%s", m.port, err, logTail(m.LogPath()))
	}
	return nil
}

// end sends sig and kills when that does not help. Caller holds m.mu.
func (m *Mosquitto) end(sig syscall.Signal) error {
	if !m.running() {
		return nil
	}
	if err := m.proc.Signal(sig); err != nil {
		return fmt.Errorf("stop mosquitto: %w", err)
	}
	const grace = 10 * time.Second
	if m.proc.goneWithin(grace) {
		return nil
	}
	err := fmt.Errorf("mosquitto did not stop within %s of %s", grace, sig)
	if sigErr := m.proc.Signal(syscall.SIGKILL); sigErr != nil || !m.proc.goneWithin(grace) {
		return errors.Join(err, sigErr, fmt.Errorf("process %d survives SIGKILL", m.proc.Pid()))
	}
	return err
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

func (m *Mosquitto) configPath() string   { return filepath.Join(m.dir, "mosquitto.conf") }
func (m *Mosquitto) rulesPath() string    { return filepath.Join(m.dir, "rules") }
func (m *Mosquitto) statePath() string    { return filepath.Join(m.dir, "mosquitto.db") }
func (m *Mosquitto) passwordPath() string { return filepath.Join(m.dir, "passwords") }

func (m *Mosquitto) writeConfig() error {
	lines := []string{
		"# Written by reactor",
		fmt.Sprintf("listener %d %s", m.port, loopback),
		"log_dest stderr",
		"log_timestamp_format %Y-%m-%dT%H:%M:%S",
		fmt.Sprintf("max_inflight_messages %d", m.cfg.MaxInflight),
		// A slow subscriber's messages wait, rather than being dropped. Not 0, for no
		// limit: with it mosquitto 2.0.11 closes a connection whose message it refuses.
		"max_queued_messages 10000000",
		"set_tcp_nodelay true", // Nagle would hold a message back until the last one is acknowledged
	}
	if m.cfg.Username == "" {
		lines = append(lines, "allow_anonymous true")
	} else {
		lines = append(lines, "allow_anonymous false", "password_file "+m.passwordPath())
	}
	if m.cfg.Persistence {
		lines = append(lines,
			"persistence true",
			"persistence_location "+m.dir+string(filepath.Separator),
			fmt.Sprintf("autosave_interval %d", int(m.cfg.Autosave/time.Second)))
	}
	if len(m.cfg.AccessRules) > 0 {
		if err := m.writeFile(m.rulesPath(), strings.Join(m.cfg.AccessRules, "\n")+"\n"); err != nil {
			return err
		}
		lines = append(lines, "acl_file "+m.rulesPath())
	}
	lines = append(lines, m.cfg.ExtraLines...)
	return m.writeFile(m.configPath(), strings.Join(lines, "\n")+"\n")
}

// writePasswords lets mosquitto_passwd hash a file, since its command line could
// be read by every user of this machine.
func (m *Mosquitto) writePasswords(ctx context.Context) error {
	if m.cfg.Username == "" {
		return nil
	}
	program := lookProgram("mosquitto_passwd", filepath.Dir(m.binary), "/usr/bin", "/usr/local/bin", "/opt/homebrew/bin")
	if program == "" {
		return errors.New("no mosquitto_passwd found, needed for Username and Password")
	}
	if err := m.writeFile(m.passwordPath(), m.cfg.Username+":"+m.cfg.Password+"\n"); err != nil {
		return err
	}
	var out bytes.Buffer
	hash, err := StartProcess(ProcessSpec{
		Path: program, Args: []string{"-U", m.passwordPath()},
		Dir: m.dir, Credential: m.who.cred, Stdout: &out, Stderr: &out,
	})
	if err != nil {
		return fmt.Errorf("mosquitto_passwd: %w", err)
	}
	if err := hash.Wait(ctx); err != nil {
		_ = hash.Signal(os.Kill)
		<-hash.Done()
		return fmt.Errorf("mosquitto_passwd: %w", err)
	}
	if hash.ExitCode() != 0 {
		return fmt.Errorf("mosquitto_passwd: %s: %s", hash.Outcome(), out.String())
	}
	return nil
}

func (m *Mosquitto) writeFile(path, text string) error {
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	return m.who.own(path)
}
