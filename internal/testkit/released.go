package testkit

import (
	"bytes"
	_ "embed" // released.txt
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// released names the last released version: its tag, and the commit, by which it is found. Whoever releases a version
// changes it, so that each change is tested as an upgrade from there.
//
//go:embed released.txt
var released string

// releasedProgram is the key of the released program among the builds.
const releasedProgram = "released"

// Released returns the last released version, and the path of its cmd/reactor, which is built from the history of the
// repository: once for this test binary, and without the race detector, which would look for what cannot be mended any more.
func Released(t testing.TB) (version, path string) {
	t.Helper()
	version, _, _ = strings.Cut(strings.TrimSpace(released), " ")
	path, err := kitOf(t).builds.get(releasedProgram, false)
	if err != nil {
		t.Fatalf("testkit: build %s of reactor: %v", version, err)
	}
	return version, path
}

// buildReleased builds the released program. Its sources are beside it while that takes.
func buildReleased(out string) error {
	tag, commit, ok := strings.Cut(strings.TrimSpace(released), " ")
	if !ok {
		return errors.New("internal/testkit/released.txt is not a tag and a commit")
	}
	root, err := reactorRoot()
	if err != nil {
		return err
	}
	sources := filepath.Join(filepath.Dir(out), "sources-"+tag)
	if err := os.Mkdir(sources, 0o700); err != nil {
		return err
	}
	if err := extract(root, tag, commit, sources); err != nil {
		return errors.Join(err, os.RemoveAll(sources))
	}
	return errors.Join(goBuildIn(sources, "./cmd/reactor", out, false), os.RemoveAll(sources))
}

// extract writes the files of a commit into a folder.
func extract(root, tag, commit, folder string) error {
	check := exec.Command("git", "cat-file", "-e", commit+"^{commit}")
	check.Dir = root
	if text, err := check.CombinedOutput(); err != nil {
		return fmt.Errorf("the history of the repository lacks commit %s, which is %s: fetch it with `git fetch --unshallow --tags` (git says: %s)", commit, tag, strings.TrimSpace(string(text)))
	}
	archive := exec.Command("git", "archive", "--format=tar", commit)
	archive.Dir = root
	var failed bytes.Buffer
	archive.Stderr = &failed
	unpack := exec.Command("tar", "-x", "-C", folder)
	files, err := archive.StdoutPipe()
	if err != nil {
		return err
	}
	unpack.Stdin = files
	if err := archive.Start(); err != nil {
		return err
	}
	text, err := unpack.CombinedOutput()
	if err := errors.Join(err, archive.Wait()); err != nil {
		return fmt.Errorf("unpack %s: %w: %s", tag, err, strings.TrimSpace(failed.String()+string(text)))
	}
	return nil
}
