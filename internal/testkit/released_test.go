package testkit

import (
	"strings"
	"testing"
)

// TestReleasedNeedsTheHistory: without the commit, the error says how to get it.
func TestReleasedNeedsTheHistory(t *testing.T) {
	root, err := reactorRoot()
	if err != nil {
		t.Fatal(err)
	}
	err = extract(root, "v0.0.9", strings.Repeat("0123", 10), t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "which is v0.0.9") || !strings.Contains(err.Error(), "`git fetch --unshallow --tags`") || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v", err)
	}
	if tag, commit, ok := strings.Cut(strings.TrimSpace(released), " "); !ok || !strings.HasPrefix(tag, "v") || len(commit) != 40 {
		t.Errorf("released.txt is %q", released)
	}
}
