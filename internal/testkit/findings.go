package testkit

import (
	"strings"
	"testing"

	"github.com/job-publisher/reactor/reactor/driver"
)

// CheckFinding fails the test if a finding is not one line, or is a problem without a remedy.
func CheckFinding(t testing.TB, f driver.Finding) {
	t.Helper()
	if strings.ContainsAny(f.What+f.Remedy, "\n") || f.What == "" {
		t.Errorf("%s is not one line: %+v", f.Check, f)
	}
	if f.Verdict == driver.Problem && f.Remedy == "" {
		t.Errorf("%s names no remedy: %s", f.Check, f.What)
	}
}

// ExpectFinding compares the finding about a check with parts of its texts.
func ExpectFinding(t testing.TB, found map[string]driver.Finding, check string, verdict driver.Verdict, what, remedy string) {
	t.Helper()
	f := found[check]
	if f.Check == "" || f.Verdict != verdict || !strings.Contains(f.What, what) || !strings.Contains(f.Remedy, remedy) {
		t.Errorf("%s: %v, %q → %q, want %v, %q → %q", check, f.Verdict, f.What, f.Remedy, verdict, what, remedy)
	}
}
