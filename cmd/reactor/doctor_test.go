package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/job-publisher/reactor/internal/testkit"
)

// TestDoctor: the marks, the remedies in terms of flags, the exit codes and JSON.
func TestDoctor(t *testing.T) {
	t.Parallel()
	url := testkit.NewDatabase(t)
	code, output := call(t, nil, "doctor", "--database-url", url)
	if code != 0 || !strings.Contains(output, "✓ database ") || !strings.Contains(output, "✓ notification ") || strings.Contains(output, "✗") {
		t.Errorf("of a sound database, code %d:\n%s", code, output)
	}
	ctx := testContext(t)
	conn := connect(t, ctx, url)
	exec(t, ctx, conn, "ALTER TABLE jobs DISABLE TRIGGER ALL; ALTER TABLE jobs SET (autovacuum_enabled = off)")
	code, output = call(t, nil, "doctor", "--database-url", url)
	for _, want := range []string{"✗ triggers ", "  → as the owner of the table run ALTER TABLE \"public\".\"jobs\" ENABLE TRIGGER reactor_jobs_inserted", "✗ autovacuum ", "reactor: there are 2 problems"} {
		if code != 1 || !strings.Contains(output, want) {
			t.Errorf("of a broken one, code %d, no %q:\n%s", code, want, output)
		}
	}
	code, output = call(t, nil, "doctor", "--json", "--feed", "poll", "--database-url", url)
	var answer struct {
		Verdict  string
		Findings []findingJSON
	}
	if err := json.NewDecoder(strings.NewReader(output)).Decode(&answer); err != nil || code != 1 || answer.Verdict != "problem" || len(answer.Findings) < 20 {
		t.Errorf("as JSON, code %d, %v:\n%s", code, err, output)
	}
	for _, args := range [][]string{{"doctor"}, {"doctor", "--database-url", "nonsense"}, {"doctor", "--database-url", url, "--schema", "No"}} {
		if code, output := call(t, nil, args...); code != 2 || len(lines(output)) != 1 {
			t.Errorf("%v: code %d\n%s", args, code, output)
		}
	}
	// Remedies are in terms of the flags, and no password is shown.
	code, output = call(t, nil, "doctor", "--database-url", url+"&password=hush", "--listen-url", "postgres://nobody:hush@127.0.0.1:1/none")
	if code != 1 || !strings.Contains(output, "✗ notification ") || strings.Contains(output, "hush") || strings.Contains(output, "Config.") {
		t.Errorf("code %d:\n%s", code, output)
	}
}
