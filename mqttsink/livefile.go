package mqttsink

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/job-publisher/reactor/reactor/driver"
)

// liveFile is the meaning of files that somebody may replace while we run: a certificate that was
// renewed, a password that was changed. Whoever needs it reads them again, which costs little beside
// the connection that it is for, and needs no watcher.
//
// What is being replaced may be incomplete: a new certificate beside the old key, half a file, none.
// The last content that could be used stays in use then.
type liveFile[T any] struct {
	paths []string
	parse func(contents [][]byte) (T, error)

	mu       sync.Mutex
	contents [][]byte // guarded by mu: those of value
	value    T        // guarded by mu
	trouble  string   // guarded by mu: why the present content is not in use; "": it is
}

// openLive reads the files for the first time. The error names the field of the configuration.
func openLive[T any](field string, parse func(contents [][]byte) (T, error), paths ...string) (*liveFile[T], error) {
	f := &liveFile[T]{paths: paths, parse: parse}
	var err error
	if f.contents, err = f.read(); err == nil {
		f.value, err = f.parse(f.contents)
	}
	if err != nil {
		return nil, &driver.ConfigError{Field: field, Problem: fmt.Sprintf("%s cannot be used: %v", strings.Join(paths, ", "), err)}
	}
	return f, nil
}

// latest returns what the files say now or, if that cannot be used, what they said last. It logs a
// change once.
func (f *liveFile[T]) latest(log *slog.Logger) T {
	f.mu.Lock()
	defer f.mu.Unlock()
	contents, err := f.read()
	if err == nil && slices.EqualFunc(contents, f.contents, bytes.Equal) {
		f.trouble = ""
		return f.value
	}
	var value T
	if err == nil {
		value, err = f.parse(contents)
	}
	if err != nil {
		if f.trouble != err.Error() {
			f.trouble = err.Error()
			log.Warn("a file has changed and cannot be used; what it said before stays in use", "files", f.paths, "err", err)
		}
		return f.value
	}
	f.contents, f.value, f.trouble = contents, value, ""
	log.Info("a file has changed; what it says now is in use", "files", f.paths)
	return f.value
}

func (f *liveFile[T]) read() ([][]byte, error) {
	contents := make([][]byte, len(f.paths))
	for i, path := range f.paths {
		var err error
		if contents[i], err = os.ReadFile(path); err != nil {
			return nil, err
		}
	}
	return contents, nil
}
