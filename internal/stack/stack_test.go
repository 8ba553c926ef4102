package stack

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testContext has a timeout, so that a test that hangs fails.
func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// mustLeaveNothing checks that a closed server has left no process, port or folder.
func mustLeaveNothing(t *testing.T, pids []int, port int, dir string) {
	t.Helper()
	for _, pid := range pids {
		if pid != 0 && alive(pid) {
			t.Errorf("process %d is still there", pid)
		}
	}
	if portTaken(port) {
		t.Errorf("port %d is still taken", port)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder %s is still there (%v)", dir, err)
	}
}

// execSQL runs one statement on a new connection.
func execSQL(ctx context.Context, t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func count(ctx context.Context, t *testing.T, url, sql string) (n int) {
	t.Helper()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if err := conn.QueryRow(ctx, sql).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func TestPostgresKeepsItsDataAfterEveryKindOfStop(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p, err := StartPostgres(ctx, PostgresConfig{Settings: map[string]string{"work_mem": "7MB"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	execSQL(ctx, t, p.URL(), "CREATE DATABASE other")
	other := p.DatabaseURL("other")
	execSQL(ctx, t, other, "CREATE TABLE seen (n int)")
	if got := count(ctx, t, other, "SELECT setting::int/1024 FROM pg_settings WHERE name = 'work_mem'"); got != 7 {
		t.Errorf("work_mem is %d MB, want 7", got)
	}

	var pids []int
	port, ends := p.Port(), 0
	for name, end := range map[string]func() error{
		"Stop": p.Stop, "StopImmediate": p.StopImmediate, "Kill": p.Kill,
		"Restart": func() error { return p.Restart(ctx) },
	} {
		execSQL(ctx, t, other, "INSERT INTO seen VALUES (1)")
		ends++
		pid := p.Pid()
		pids = append(pids, pid)
		pids = append(pids, childrenOf(pid)...)
		if err := end(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if alive(pid) {
			t.Errorf("%s: process %d is still there", name, pid)
		}
		if err := p.Start(ctx); err != nil {
			t.Fatalf("Start after %s: %v", name, err)
		}
		if p.Pid() == pid || p.Port() != port {
			t.Errorf("Start after %s: pid %d → %d, port %d → %d", name, pid, p.Pid(), port, p.Port())
		}
		if got := count(ctx, t, other, "SELECT count(*) FROM seen"); got != ends {
			t.Errorf("after %s: %d rows, want %d", name, got, ends)
		}
	}
	pids = append(append(pids, p.Pid()), childrenOf(p.Pid())...)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	mustLeaveNothing(t, pids, port, p.Dir())
	if err := p.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if err := p.Start(ctx); err == nil {
		t.Error("a closed server started")
	}
}

// A backend that executes a statement does not check whether its postmaster has ended, so Kill
// has to end it.
func TestPostgresKillEndsBusyBackends(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	p, err := StartPostgres(ctx, PostgresConfig{Trust: true})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	conn, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	backend := int(conn.PgConn().PID())
	busy := make(chan error, 1)
	go func() {
		_, err := conn.Exec(ctx, "DO $$ BEGIN LOOP END LOOP; END $$")
		busy <- err
	}()
	active := "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'DO %'"
	for count(ctx, t, p.URL(), active) == 0 {
		if ctx.Err() != nil {
			t.Fatal("the loop did not start")
		}
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-busy; err == nil {
		t.Error("the endless statement ended without an error")
	}
	if alive(backend) {
		t.Errorf("backend %d still runs", backend)
	}
	// Close cleans up after the kill as well.
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	mustLeaveNothing(t, []int{backend, p.Pid()}, p.Port(), p.Dir())
}

func TestPostgresErrorsNameTheCause(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "other.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		cfg  PostgresConfig
		want string
	}{
		"no programs in BinDir": {PostgresConfig{BinDir: "/nonexistent"}, "/nonexistent/postgres"},
		"unknown setting":       {PostgresConfig{Settings: map[string]string{"colour": "blue"}}, "unrecognized configuration parameter"},
		"port taken":            {PostgresConfig{Port: taken.Addr().(*net.TCPAddr).Port}, "Address already in use"},
		"directory in use":      {PostgresConfig{Dir: full}, "not empty"},
		"not a port":            {PostgresConfig{Port: 70000}, "Port"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := StartPostgres(ctx, c.cfg)
			if err == nil {
				p.Close()
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error does not contain %q:\n%v", c.want, err)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(full, "other.txt")); err != nil {
		t.Errorf("a failed start removed a file that it had not created: %v", err)
	}
}

func TestPostgresStopsWaitingWhenTheContextEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	dir := filepath.Join(os.TempDir(), "reactor-cancelled-"+t.Name())
	if _, err := StartPostgres(ctx, PostgresConfig{Dir: dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder left behind (%v)", err)
	}
}

func TestMosquittoStopKillRestart(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	m, err := StartMosquitto(ctx, MosquittoConfig{Persistence: true})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	port := m.Port()
	var pids []int
	for name, end := range map[string]func() error{
		"Stop": m.Stop, "Kill": m.Kill, "Restart": func() error { return m.Restart(ctx) },
	} {
		pid := m.Pid()
		pids = append(pids, pid)
		if err := end(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if alive(pid) {
			t.Errorf("%s: process %d is still there", name, pid)
		}
		if err := m.Start(ctx); err != nil {
			t.Fatalf("Start after %s: %v", name, err)
		}
		if m.Pid() == pid || m.Port() != port {
			t.Errorf("Start after %s: pid %d → %d, port %d → %d", name, pid, m.Pid(), port, m.Port())
		}
	}
	if _, err := os.Stat(filepath.Join(m.Dir(), "mosquitto.db")); err != nil {
		t.Errorf("the state was not saved at a stop: %v", err)
	}
	pids = append(pids, m.Pid())
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	mustLeaveNothing(t, pids, port, m.Dir())
	if err := m.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestMosquittoRequiresThePassword(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	m, err := StartMosquitto(ctx, MosquittoConfig{Username: "reactor", Password: "s3cret/@"})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if !strings.HasPrefix(m.URL(), "mqtt://reactor:s3cret%2F%40@127.0.0.1:") {
		t.Errorf("URL is %s", m.URL())
	}
	text, err := os.ReadFile(m.passwordPath())
	if err != nil || strings.Contains(string(text), "s3cret") {
		t.Errorf("the password file contains the password in clear text (%v)", err)
	}
	anonymous := &Mosquitto{server: server{port: m.Port()}}
	if err := anonymous.ping(ctx); err == nil {
		t.Error("a client without a password was accepted")
	}
}

func TestMosquittoErrorsNameTheCause(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// This listener accepts and never answers, so StartMosquitto has to detect that the broker exits.
	defer taken.Close()
	for name, c := range map[string]struct {
		cfg  MosquittoConfig
		want string
	}{
		"no such program": {MosquittoConfig{Binary: "/nonexistent/mosquitto"}, "/nonexistent/mosquitto"},
		"unknown line":    {MosquittoConfig{ExtraLines: []string{"colour blue"}}, "colour"},
		"port taken":      {MosquittoConfig{Port: taken.Addr().(*net.TCPAddr).Port}, "Address already in use"},
		"colon":           {MosquittoConfig{Username: "a", Password: "b:c"}, "colon"},
		"refuses us":      {MosquittoConfig{ExtraLines: []string{"allow_anonymous false"}}, "refuses"},
		"no user":         {MosquittoConfig{Password: "x"}, "Username"},
		"not a port":      {MosquittoConfig{Port: -1}, "Port"},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := StartMosquitto(ctx, c.cfg)
			if err == nil {
				m.Close()
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error does not contain %q:\n%v", c.want, err)
			}
		})
	}
}

// After a kill the saved state is there, and later changes are not.
func TestMosquittoKilledAfterASave(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	m, err := StartMosquitto(ctx, MosquittoConfig{Persistence: true, Autosave: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	session := func(clientID string) (present bool) {
		t.Helper()
		conn, err := net.Dial("tcp", address(m.Port()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		expiry := uint32(600)
		connect := packets.Connect{
			ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: clientID,
			Properties: &packets.Properties{SessionExpiryInterval: &expiry},
		}
		if _, err := connect.WriteTo(conn); err != nil {
			t.Fatal(err)
		}
		reply, err := packets.ReadPacket(conn)
		if err != nil {
			t.Fatal(err)
		}
		return reply.Content.(*packets.Connack).SessionPresent
	}
	session("before")
	for range 3 { // Save must detect each save, whichever inode the new file gets
		if err := m.Save(ctx); err != nil {
			t.Fatal(err)
		}
	}
	session("after")
	if err := errors.Join(m.Kill(), m.Start(ctx)); err != nil {
		t.Fatal(err)
	}
	if !session("before") || session("after") {
		t.Error("after the kill the broker does not have the state of its last save")
	}
	inMemory := &Mosquitto{}
	if err := inMemory.Save(ctx); err == nil || !strings.Contains(err.Error(), "Persistence") {
		t.Errorf("Save without persistence: %v, want an error about Persistence", err)
	}
}

// The broker answers a message that the rules forbid with reason 0x87, and keeps the connection.
func TestMosquittoAccessRules(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	m, err := StartMosquitto(ctx, MosquittoConfig{AccessRules: []string{"topic readwrite #", "topic deny refused/#"}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	conn, err := net.Dial("tcp", address(m.Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	connect := packets.Connect{ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: "rules", Properties: &packets.Properties{}}
	if _, err := connect.WriteTo(conn); err != nil {
		t.Fatal(err)
	}
	if _, err := packets.ReadPacket(conn); err != nil {
		t.Fatal(err)
	}
	for id, topic := range map[uint16]string{1: "refused/a", 2: "welcome/a"} {
		publish := packets.Publish{Topic: topic, QoS: 2, PacketID: id, Properties: &packets.Properties{}}
		if _, err := publish.WriteTo(conn); err != nil {
			t.Fatal(err)
		}
		reply, err := packets.ReadPacket(conn)
		if err != nil {
			t.Fatal(err)
		}
		pubrec, ok := reply.Content.(*packets.Pubrec)
		if !ok || (pubrec.ReasonCode == 0x87) != (topic == "refused/a") {
			t.Errorf("%s: %s with %#v", topic, reply.PacketType(), reply.Content)
		}
	}
}
