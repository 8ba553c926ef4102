package page

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	// leastPassword is how many characters a password has at least. Guesses are slowed down, not prevented.
	leastPassword = 8
	// mostPassword is how many bytes of the file count, so that a file that is none does no harm.
	mostPassword = 4096
	// passwordKept is how long the file is not read again.
	passwordKept = time.Second
)

// password is what a file says, whenever it is needed: it may change. What cannot be used, such as a file that is being
// written, changes nothing. Only a digest is kept.
type password struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	digest  [sha256.Size]byte // guarded by mu
	read    time.Time         // guarded by mu: when the file was last looked at
	trouble string            // guarded by mu: why the present content is not in use; "": it is
}

// openPassword reads the file for the first time.
func openPassword(path string, log *slog.Logger) (*password, error) {
	digest, err := readPassword(path)
	if err != nil {
		return nil, fmt.Errorf("--http-password-file cannot be used: %w", err)
	}
	return &password{path: path, log: log, digest: digest, read: time.Now()}, nil
}

func readPassword(path string) (digest [sha256.Size]byte, err error) {
	file, err := os.Open(path)
	if err != nil {
		return digest, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, mostPassword+3)) // with the end of the line, and one more
	if err != nil {
		return digest, err
	}
	word := strings.TrimRight(string(text), "\r\n") // as editors and echo end it
	switch {
	case utf8.RuneCountInString(word) < leastPassword:
		return digest, fmt.Errorf("%s has a password of fewer than %d characters: choose a longer one, such as that of `openssl rand -base64 18`", path, leastPassword)
	case len(word) > mostPassword:
		return digest, fmt.Errorf("%s has more than %d bytes: give a file with a password and nothing else", path, mostPassword)
	}
	return sha256.Sum256([]byte(word)), nil
}

// current is the digest of the password now.
func (p *password) current() [sha256.Size]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.read) < passwordKept {
		return p.digest
	}
	p.read = time.Now()
	digest, err := readPassword(p.path)
	switch {
	case err != nil && p.trouble != err.Error():
		p.trouble = err.Error()
		p.log.Warn("the file of the page's password cannot be used; what it said before stays in use", "err", err)
	case err == nil:
		if digest != p.digest {
			p.log.Info("the password of the page has changed; its sessions have ended", "file", p.path)
		}
		p.digest, p.trouble = digest, ""
	}
	return p.digest
}

// is compares a guess, in a time that does not depend on either.
func (p *password) is(guess string) bool {
	given, right := sha256.Sum256([]byte(guess)), p.current()
	return subtle.ConstantTimeCompare(given[:], right[:]) == 1
}
