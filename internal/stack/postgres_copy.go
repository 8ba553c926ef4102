package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
)

// CopyPostgres starts a physical copy of a running server on another port, like a snapshot, a
// base backup or a restore to a point in time. The copy has the same system identifier,
// databases, oids and passwords. Later changes to one server do not affect the other.
func CopyPostgres(ctx context.Context, p *Postgres) (*Postgres, error) {
	ctx, cancel := withStartTimeout(ctx)
	defer cancel()
	c, err := p.copy(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("copy postgres: %w", err)
	}
	return c, nil
}

// StartStandby starts a hot standby of a running server on another port. It streams
// asynchronously: a commit at the primary does not wait for the standby.
//
//	StartStandby ──► streaming ──StopStreaming──► behind ──┐
//	                     └───────────────Promote───────────┴──► a primary of its own
//
// Promote loses what the primary has committed after StopStreaming.
func StartStandby(ctx context.Context, primary *Postgres) (*Postgres, error) {
	ctx, cancel := withStartTimeout(ctx)
	defer cancel()
	s, err := primary.copy(ctx, func(s *Postgres) error {
		conninfo := fmt.Sprintf("host=%s port=%d user=%s password=%s sslmode=disable",
			loopback, primary.Port(), superuser, primary.password)
		if primary.password == "" {
			conninfo = fmt.Sprintf("host=%s port=%d user=%s sslmode=disable", loopback, primary.Port(), superuser)
		}
		return errors.Join(
			// If primary was a standby once, StopStreaming has set primary_conninfo in
			// postgresql.auto.conf. Override it in the same file.
			s.appendSettings("postgresql.auto.conf", map[string]string{"primary_conninfo": conninfo, "hot_standby": "on"}),
			s.writeData("standby.signal", ""))
	})
	if err != nil {
		return nil, fmt.Errorf("start standby: %w", err)
	}
	err = primary.await(ctx, "the standby to stream",
		"SELECT EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start standby: %w; the last lines of its log:\n%s", err, logTail(s.LogPath())), s.Close())
	}
	return s, nil
}

// StopStreaming disconnects a standby from its primary, and returns when it receives nothing
// any more.
func (p *Postgres) StopStreaming(ctx context.Context) error {
	if err := p.setAndReload(ctx, "primary_conninfo", ""); err != nil {
		return fmt.Errorf("stop streaming: %w", err)
	}
	return p.await(ctx, "the end of streaming", "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)")
}

// CatchUp blocks until a standby has replayed what primary has committed until now.
func (p *Postgres) CatchUp(ctx context.Context, primary *Postgres) error {
	conn, err := pgx.Connect(ctx, primary.URL())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var lsn string
	if err := conn.QueryRow(ctx, "SELECT pg_current_wal_lsn()::text").Scan(&lsn); err != nil {
		return err
	}
	return p.await(ctx, "the replay of "+lsn, "SELECT pg_last_wal_replay_lsn() >= "+quoteLiteral(lsn)+"::pg_lsn")
}

// Promote makes a standby a primary. It does not stop the old primary: stop that before, or
// there are two.
func (p *Postgres) Promote(ctx context.Context) error {
	ctx, cancel := withStartTimeout(ctx)
	defer cancel()
	// A statement that waits for the end of recovery may be canceled by what is replayed until then.
	if err := p.exec(ctx, "SELECT pg_promote(false)"); err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	return p.await(ctx, "the end of recovery", "SELECT NOT pg_is_in_recovery()")
}

// copy starts a server on a copy of p's data. prepare may change the copy before the start.
func (p *Postgres) copy(ctx context.Context, prepare func(*Postgres) error) (*Postgres, error) {
	cfg := p.cfg
	cfg.Dir, cfg.Port = "", 0
	c := &Postgres{cfg: cfg, bin: p.bin, password: p.password}
	c.server = server{name: p.name, kind: c, logger: p.logger}
	err := c.open(ctx, "", 0, func(ctx context.Context) error {
		if err := p.backup(ctx, c); err != nil {
			return err
		}
		// The copied settings contain the original's folder for the socket.
		if err := c.appendSettings("postgresql.conf", map[string]string{"unix_socket_directories": c.socketDir()}); err != nil {
			return err
		}
		if prepare != nil {
			return prepare(c)
		}
		return nil
	}, superuser)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// backup copies the data of a running server by the low-level API of base backups
// (https://www.postgresql.org/docs/15/continuous-archiving.html, 26.3.3), because not every
// installation has pg_basebackup. Between start and stop the server writes whole pages to the
// WAL, so the replay corrects a page that changed while it was copied. The WAL is copied last
// and contains everything from start to stop.
func (p *Postgres) backup(ctx context.Context, to *Postgres) error {
	conn, err := pgx.Connect(ctx, p.URL())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "SELECT pg_backup_start('reactor', fast => true)"); err != nil {
		return err
	}
	if err := p.copyTree(to, ".", func(path string) bool { return !neverCopied[path] }); err != nil {
		return err
	}
	var label string
	if err := conn.QueryRow(ctx, "SELECT labelfile FROM pg_backup_stop(wait_for_archive => false)").Scan(&label); err != nil {
		return err
	}
	return errors.Join(p.copyTree(to, "pg_wal", func(string) bool { return true }), to.writeData("backup_label", label))
}

// neverCopied lists the files, and the folders whose contents, are not copied, because the new
// server creates them.
var neverCopied = map[string]bool{
	"postmaster.pid": true, "postmaster.opts": true, "pg_wal": true, "pg_replslot": true, "pg_dynshmem": true,
	"pg_notify": true, "pg_serial": true, "pg_snapshots": true, "pg_stat_tmp": true, "pg_subtrans": true,
}

// copyTree copies a folder of the data directory. It ignores files that are deleted meanwhile.
func (p *Postgres) copyTree(to *Postgres, folder string, wanted func(path string) bool) error {
	from := filepath.Join(p.dataDir(), folder)
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(p.dataDir(), path)
		if err != nil {
			return err
		}
		target := filepath.Join(to.dataDir(), relative)
		switch {
		case entry.IsDir():
			if err := os.MkdirAll(target, 0o700); err != nil {
				return err
			}
			if err := to.account.own(target); err != nil {
				return err
			}
			if !wanted(relative) {
				return fs.SkipDir
			}
			return nil
		case !wanted(relative), strings.HasPrefix(entry.Name(), "pgsql_tmp"):
			return nil
		default:
			return copyFile(path, target, to.account)
		}
	})
}

func copyFile(from, to string, owner account) error {
	in, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close(), owner.own(to))
}

// writeData writes a file of the data directory.
func (p *Postgres) writeData(name, text string) error {
	return p.writeFile(filepath.Join(p.dataDir(), name), text)
}
