package browser

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// axe returns the script of axe-core, which finds what keeps people from using a page.
func axe(t testing.TB) string {
	t.Helper()
	var said strings.Builder
	command := exec.Command("../../../scripts/axe.sh")
	command.Stderr = &said
	path, err := command.Output()
	if err != nil {
		t.Fatalf("fetch axe-core: %v\n%s", err, said.String())
	}
	source, err := os.ReadFile(strings.TrimSpace(string(path)))
	if err != nil {
		t.Fatal(err)
	}
	return string(source)
}

// axe returns the faults of the page that is shown, except those that axe calls minor or moderate.
func (x *tab) axe(source string) (faults []string) {
	x.t.Helper()
	js[bool](x, source+"\n;true")
	var found []struct {
		ID, Impact, Help string
		Nodes            []struct {
			HTML           string
			FailureSummary string
		}
	}
	text := js[string](x, `axe.run({resultTypes: ['violations'], runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']}).then(found => JSON.stringify(found.violations))`)
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		x.t.Fatal(err)
	}
	for _, f := range found {
		if f.Impact != "serious" && f.Impact != "critical" {
			x.t.Logf("%s (%s): %s, %s", f.ID, f.Impact, f.Help, f.Nodes[0].HTML)
			continue
		}
		for _, n := range f.Nodes[:min(len(f.Nodes), 3)] { // the others have the same fault
			faults = append(faults, fmt.Sprintf("%s (%s): %s\n%s\n%s", f.ID, f.Impact, f.Help, n.HTML, n.FailureSummary))
		}
	}
	return faults
}
