package stack

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

func (m *Mosquitto) configPath() string   { return filepath.Join(m.dir, "mosquitto.conf") }
func (m *Mosquitto) rulesPath() string    { return filepath.Join(m.dir, "rules") }
func (m *Mosquitto) statePath() string    { return filepath.Join(m.dir, "mosquitto.db") }
func (m *Mosquitto) passwordPath() string { return filepath.Join(m.dir, "passwords") }

// configure writes mosquitto.conf.
func (m *Mosquitto) configure() error {
	lines := []string{
		"# Written by reactor",
		fmt.Sprintf("listener %d %s", m.port, loopback),
		"log_dest stderr",
		"log_timestamp_format %Y-%m-%dT%H:%M:%S",
		fmt.Sprintf("max_inflight_messages %d", m.cfg.MaxInflight),
		// A slow subscriber's messages are queued, not dropped. Do not use 0 (no limit):
		// then mosquitto 2.0.11 closes a connection whose message it refuses.
		"max_queued_messages 10000000",
		"set_tcp_nodelay true", // with Nagle's algorithm a message waits for the acknowledgement of the last one
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

// writePasswords writes the password to a file and lets mosquitto_passwd hash it there. The
// password must not be an argument, because every user of this machine can read arguments.
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
	return m.runTool(ctx, program, "-U", m.passwordPath())
}
