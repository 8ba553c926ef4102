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

// account is whom a server runs as. The zero account is ourselves.
type account struct {
	name string
	cred *syscall.Credential
}

// unprivileged returns the account for a server: ourselves, unless we are root;
// then the first of names that exists on this machine, then nobody.
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

// own gives path to the account.
func (a account) own(path string) error {
	if a.cred == nil {
		return nil
	}
	return os.Chown(path, int(a.cred.Uid), int(a.cred.Gid))
}

// canReach says whether the account may enter every folder above path. We do not
// open up folders that are not ours; the error names the one that is closed.
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
			return fmt.Errorf("the server runs as %q, who may not enter %s: choose another directory", a.name, dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}
