package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestFindingOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err          error
		what, remedy string
	}{
		{errors.New("wal_level is replica: run ALTER SYSTEM"), "wal_level is replica", "run ALTER SYSTEM"},
		{errors.New("the table a::b is not there: restore it"), "the table a::b is not there", "restore it"},
		{errors.New("it may not: run ALTER ROLE (elsewhere: GRANT)"), "it may not", "run ALTER ROLE (elsewhere: GRANT)"},
		{errors.New("nothing to say"), "nothing to say", ""},
		{fmt.Errorf("broker b:1883: %w", io.EOF), "broker b:1883: EOF", ""},
		{fmt.Errorf("connect: %w", errors.New("no host: check the URL")), "connect: no host", "check the URL"},
		{fmt.Errorf("no answer: %w", context.DeadlineExceeded), "no answer: context deadline exceeded", ""},
		{errors.New("the database says: odd (SQLSTATE 55000)"), "the database says: odd (SQLSTATE 55000)", ""},
		{fmt.Errorf("broker b: TLS failed (%w): is it trusted?", io.EOF), "broker b: TLS failed (EOF)", "is it trusted?"},
		{&ConfigError{Field: "URL", Problem: "is empty: give one"}, "URL is empty", "give one"},
	} {
		want := Finding{Check: "c", Verdict: Problem, What: c.what, Remedy: c.remedy}
		if got := FindingOf("c", Problem, c.err); got != want {
			t.Errorf("%v becomes\n%+v, want\n%+v", c.err, got, want)
		}
	}
}

func TestVerdictNames(t *testing.T) {
	t.Parallel()
	for v, want := range map[Verdict]string{Fine: "ok", Warning: "warning", Problem: "problem", Unknown: "unknown", 9: "Verdict(9)"} {
		if v.String() != want {
			t.Errorf("%d is called %s, want %s", uint8(v), v, want)
		}
	}
}
