//go:build unix

package stack

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is the account that a server runs as. The zero value is our own account.
type account struct {
	name string
	cred *syscall.Credential
}

// unprivileged returns the account for a server: our own, unless we are root. For root it
// is the first of names that exists on this machine, or else "nobody".
func unprivileged(names ...string) (account, error) {
	if os.Geteuid() != 0 {
		return account{}, nil
	}
	for _, name := range append(names, "nobody") {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.ParseUint(u.Uid, 10, 32)
		gid, errGID := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(errUID, errGID); err != nil {
			return account{}, fmt.Errorf("account %s: %w", name, err)
		}
		return account{name: name, cred: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
	}
	return account{}, errors.New("running as root, and there is no unprivileged account to run the server under")
}

// own makes the account the owner of path.
func (a account) own(path string) error {
	if a.cred == nil {
		return nil
	}
	return os.Chown(path, int(a.cred.Uid), int(a.cred.Gid))
}

// canReach returns an error if the account may not enter every folder above path. The error
// names the folder. We do not change the rights of folders that are not ours.
func (a account) canReach(path string) error {
	if a.cred == nil {
		return nil
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		enter := os.FileMode(0o001)
		switch {
		case st.Uid == a.cred.Uid:
			enter = 0o100
		case st.Gid == a.cred.Gid:
			enter = 0o010
		}
		if info.Mode().Perm()&enter == 0 {
			return fmt.Errorf("the server runs as %q, which may not enter %s: choose another directory", a.name, dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}
