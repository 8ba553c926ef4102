package stack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// prepareDir makes the directory of a server. If dir is "", it is a new one under the
// system's temporary folder. Otherwise it is dir, which must be absent or empty, because
// Close removes it with its contents.
func prepareDir(dir, pattern string, owner account) (string, error) {
	if dir == "" {
		made, err := os.MkdirTemp("", pattern)
		if err != nil {
			return "", err
		}
		dir = made
	} else {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", err
		}
		dir = abs
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", err
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return "", err
		}
		if len(entries) > 0 {
			return "", fmt.Errorf("directory %s is not empty", dir)
		}
	}
	if err := errors.Join(owner.canReach(dir), owner.own(dir)); err != nil {
		_ = os.Remove(dir)
		return "", err
	}
	return dir, nil
}
