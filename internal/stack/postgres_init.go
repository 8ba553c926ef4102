package stack

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const (
	superuser = "postgres"

	// maxSocketPath is the maximum length in bytes of a path in sockaddr_un.sun_path on macOS
	// and the BSDs, without its final zero; Linux allows 107.
	maxSocketPath = 103
)

// initPostgres creates the cluster in the folder data and writes its configuration.
func (p *Postgres) initPostgres(ctx context.Context) error {
	data := p.dataDir()
	args := []string{
		"--pgdata=" + data, "--username=" + superuser, "--encoding=UTF8", "--locale=C",
		"--no-sync", "--no-instructions",
	}
	if p.cfg.Trust {
		args = append(args, "--auth=trust")
	} else {
		p.password = rand.Text()
		file := filepath.Join(p.dir, "password")
		if err := p.writeFile(file, p.password+"\n"); err != nil {
			return err
		}
		defer os.Remove(file)
		args = append(args, "--auth=scram-sha-256", "--pwfile="+file)
	}
	if err := p.runTool(ctx, filepath.Join(p.bin.Dir, "initdb"), args...); err != nil {
		return err
	}
	return p.writeSettings()
}

// writeSettings appends to postgresql.conf. Options of the server's command line would
// override ALTER SYSTEM, which tests use.
func (p *Postgres) writeSettings() error {
	settings := map[string]string{
		"listen_addresses":        loopback,
		"unix_socket_directories": p.socketDir(),
		"max_connections":         "200",
		"shared_buffers":          "64MB",
		"max_wal_size":            "1GB",
		"wal_level":               "logical", // the WAL feed reads through pgoutput
		"max_wal_senders":         "20",
		"max_replication_slots":   "20",
		"timezone":                "UTC",
		"log_line_prefix":         "%m [%p] %d ",
		"logging_collector":       "off",
	}
	if !p.cfg.Durable {
		// Without fsync a commit still reaches the kernel before it is acknowledged. So
		// it survives a kill -9 of the server, but not a crash of the machine.
		// synchronous_commit must stay on: otherwise a kill would lose commits that are
		// only in the server's shared memory.
		settings["fsync"] = "off"
		settings["full_page_writes"] = "off"
	}
	for name, value := range p.cfg.Settings {
		settings[name] = value
	}
	return p.appendSettings("postgresql.conf", settings)
}

// appendSettings adds to postgresql.conf, or to postgresql.auto.conf, which overrides it. In
// each file the last line for a setting counts.
func (p *Postgres) appendSettings(file string, settings map[string]string) error {
	names := make([]string, 0, len(settings))
	for name := range settings {
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	b.WriteString("\n# Written by reactor\n")
	for _, name := range names {
		value := settings[name]
		if strings.ContainsAny(name+value, "\n\r") {
			return fmt.Errorf("setting %q: line breaks are not allowed", name)
		}
		fmt.Fprintf(&b, "%s = %s\n", name, quoteLiteral(value))
	}
	f, err := os.OpenFile(filepath.Join(p.dataDir(), file), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(b.String())
	return err
}

// quoteLiteral quotes a value for SQL and for postgresql.conf.
func quoteLiteral(value string) string { return "'" + strings.ReplaceAll(value, "'", "''") + "'" }

// socketDir is the folder of the Unix socket, which is for a person with psql; we connect
// through TCP. If the path is too long for a socket address, there is no socket.
func (p *Postgres) socketDir() string {
	if len(filepath.Join(p.dir, ".s.PGSQL.65535")) > maxSocketPath {
		return ""
	}
	return p.dir
}

func (p *Postgres) dataDir() string { return filepath.Join(p.dir, "data") }

// serverEnv is our environment without the variables that change what the server's programs
// use: PGDATA, PGPORT and other PG variables, and NOTIFY_SOCKET.
func serverEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(entry string) bool {
		return strings.HasPrefix(entry, "PG") || strings.HasPrefix(entry, "NOTIFY_SOCKET=")
	})
}

// lookProgram finds a program in PATH or in one of dirs. It returns "" if there is none.
func lookProgram(name string, dirs ...string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range dirs {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	return ""
}

// givenOrFound returns the path of a program: the given one, which must exist, or if that is
// "" the result of find.
func givenOrFound(given string, find func() (string, error)) (string, error) {
	if given == "" {
		return find()
	}
	_, err := os.Stat(given)
	return given, err
}
