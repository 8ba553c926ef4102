package handoff

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMutations breaks the rules of the machine in its own source, one by one, and has the
// model look at the result: it would not be worth much if it let a broken machine pass.
func TestMutations(t *testing.T) {
	for name, test := range map[string]struct {
		file, rule, broken string
		model              string
		want               string
	}{
		"PUBREL before the journal knows": {
			"answers.go", "msg.state = received\n", "msg.state = received\n\t\tm.release(a.Slot)\n\t\tmsg.state = received\n",
			"a slot used again", "delivered 2 times",
		},
		"a slot used again early": {
			"machine.go", "if used == 0 {\n\t\treturn 0\n", "if used == 0 {\n\t\treturn int(m.ring)\n",
			"a slot used again", "",
		},
		"the journal cleared before PUBCOMP": {
			"batch.go", "func (b *Batch) done() bool { return b.ended == b.kept }", "func (b *Batch) done() bool { return b.concluded == b.kept }",
			"a slot used again", "delivered 0 times",
		},
		"not sent again over a new connection": {
			"connection.go", "case msg.state == releasing || msg.state == received && msg.releases == 0 && msg.job.Topic != \"\":",
			"case msg.state == releasing:\n\t\t\t\tm.release(s)\n\t\t\t\tm.inFlight++\n\t\t\tcase false:",
			"a broker that is killed", "delivered 0 times",
		},
		"released before it was received again": {
			"send.go", "msg.due && !msg.unsure", "msg.due",
			"a broker that is killed", "delivered 0 times",
		},
		"released before its time": {
			"send.go", "msg.due && !msg.unsure", "!msg.unsure",
			"staged", "before its time",
		},
		"staged without knowing the broker": {
			"connection.go", "if !msg.due { // it is not certain", "if false { // it is not certain",
			"staged, killed, upgraded", "before its time",
		},
		"asked about before its time": {
			"connection.go", "if msg.due { // else Stages", "if true { // else Stages",
			"staged, killed, upgraded", "before its time",
		},
		"staged and forgotten": {
			"machine.go", "if m.connected { // else Connect asks", "if false { // else Connect asks",
			"staged, killed", "is not idle",
		},
		"withheld by a broker that does not": {
			"send.go", "m.connection.Withholds && (msg.withheld || !msg.attempted)", "true",
			"lost over a broker that passes on at PUBLISH", "delivered 2 times",
		},
		"sent again before its time": {
			"connection.go", "case msg.due:", "default:",
			"set back, session lost", "before its time",
		},
		"recovered jobs sent at once": {
			"recovery.go", "waits := msg.job.FireAt > now.Database", "waits := false",
			"at least once, set back", "nobody will launch it",
		},
		"a failure that the journal cannot be told": {
			"connection.go", "m.endBefore(b, failed)", "_ = failed",
			"over quota, session lost, fail", "delivered 2 times",
		},
		"sent again after PUBREL": {
			"connection.go", "case msg.state == releasing && (msg.releases > 0 || msg.job.Topic == \"\"):", "case false:",
			"a slot used again", "delivered 2 times",
		},
		"what the journal knows sent again by a recovery": {
			"recovery.go", "recorded := b.qos == 2 && i < b.recorded.concluded", "recorded := false",
			"a slot used again", "delivered",
		},
		"sent beyond the reach": {
			"send.go", "m.ring.minus(s, m.doubtful) >= msg.batch.reach", "m.doubtful == 0",
			"beyond the reach", "is sent as new",
		},
		"released for another owner": {
			"settlement.go", "if !recorded {", "if false {",
			"three instances", "",
		},
		"nothing sent again after a lost connection": {
			"connection.go", "unanswered = append(unanswered, s)", "_ = unanswered",
			"two slots", "is not idle",
		},
		"at most once sent again": {
			"connection.go", "if b.qos == 0 {", "if false {",
			"at most once", "delivered 2 times",
		},
		"at least once taken for sent": {
			"recovery.go", "case !doubt:", "case b.qos == 1:\n\t\t\t\tm.end(s, nil)\n\t\t\tcase !doubt:",
			"at least once", "delivered 0 times",
		},
		"a lost session ignored": {
			"connection.go", "b.round, b.recorded.concluded, b.concluded = round, 0, 0", "b.round = round",
			"session lost, republish", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := mutate(t, test.file, test.rule, test.broken, test.model)
			if err == nil || !strings.Contains(out, "--- FAIL: TestModel/") || !strings.Contains(out, test.want) {
				t.Fatalf("the model does not say %q:\n%s", test.want, out)
			}
			t.Log(out)
		})
	}
	t.Run("the lease not looked at again", func(t *testing.T) { // by the caller
		m := model{qos: 2, slots: 1, jobs: 2, instances: 2, claim: 1, drops: 1, trustsOldLease: true}
		v := m.explore()
		if !strings.Contains(v.broken, "delivered 2 times") {
			t.Fatalf("after %d states the model says %q", v.states, v.broken)
		}
	})
}

// mutate runs a model on this package with a rule of a file broken.
func mutate(t *testing.T, file, rule, broken, model string) (out string, err error) {
	t.Helper()
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(source), rule); n != 1 {
		t.Fatalf("%s has the rule %d times: %s", file, n, rule)
	}
	path, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	replacement, overlay := filepath.Join(dir, file), filepath.Join(dir, "overlay.json")
	replaced, err := json.Marshal(map[string]map[string]string{"Replace": {path: replacement}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		replacement: []byte(strings.Replace(string(source), rule, broken, 1)), overlay: replaced,
	} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The name of a subtest has underscores for spaces.
	run := "^TestModel$/^" + strings.ReplaceAll(model, " ", "_") + "$"
	data, err := exec.CommandContext(t.Context(), "go", "test", "-vet=off", "-overlay", overlay, "-run", run, ".").CombinedOutput()
	return string(data), err
}
