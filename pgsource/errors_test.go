package pgsource

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
)

// TestErrorsKeepTheirCause: an error with a text of ours still unwraps to the error of pgx.
func TestErrorsKeepTheirCause(t *testing.T) {
	cause := func(code, message string) error {
		return fmt.Errorf("query: %w", &pgconn.PgError{SeverityUnlocalized: "ERROR", Code: code, Message: message})
	}
	for name, test := range map[string]struct {
		explain   func(error) error
		err       error
		want      string
		isErr     error // that errors.Is finds as well
		stateLost bool
	}{
		"password":         {explain: explain, err: cause(pgerrcode.InvalidPassword, "no"), want: "check user and password"},
		"connections":      {explain: explain, err: cause(pgerrcode.TooManyConnections, "no"), want: "lower pgsource.Config.MaxConns"},
		"something else":   {explain: explain, err: cause(pgerrcode.DiskFull, "no"), want: "SQLSTATE 53100"},
		"read-only":        {explain: explain, err: cause(pgerrcode.ReadOnlySQLTransaction, "no"), want: "read-only", isErr: errReadOnly},
		"deadline":         {explain: explain, err: fmt.Errorf("dial: %w", context.DeadlineExceeded), want: "does not answer", isErr: context.DeadlineExceeded, stateLost: true},
		"may not":          {explain: explainWAL, err: cause(pgerrcode.InsufficientPrivilege, "no"), want: "may not replicate"},
		"no publication":   {explain: explainWAL, err: cause(pgerrcode.UndefinedObject, "gone"), want: "(gone)", isErr: errUnpublished},
		"pooler":           {explain: explainWAL, err: cause(pgerrcode.ProtocolViolation, "replication is not for you"), want: "pgsource.Config.ListenURL", isErr: errPooledWAL},
		"standby":          {explain: explainWAL, err: cause(pgerrcode.ObjectNotInPrerequisiteState, "in recovery"), want: "read-only", isErr: errReadOnly},
		"a setting":        {explain: explainSetting, err: cause(pgerrcode.InsufficientPrivilege, "session_replication_role"), want: "ALTER ROLE"},
		"explained before": {explain: explain, err: explainWAL(cause(pgerrcode.SyntaxError, "no")), want: "carry replication: give", isErr: errPooledWAL},
		"in both ways":     {explain: explainWAL, err: explain(cause(pgerrcode.InsufficientPrivilege, "no")), want: "GRANT USAGE"},
	} {
		err := test.explain(test.err)
		if text := err.Error(); !strings.Contains(text, test.want) || strings.Contains(text, "\n") {
			t.Errorf("%s: %q, want one line with %q", name, text, test.want)
		}
		if test.isErr != nil && !errors.Is(err, test.isErr) {
			t.Errorf("%s: %q is not %q", name, err, test.isErr)
		}
		if lost := sqlState(err) == ""; lost != test.stateLost {
			t.Errorf("%s: the server's error is there: %t", name, !lost)
		}
	}
}

// TestFullQueueIsNoFaultOfAJob: the commit of a transaction that has sent a notification fails while the server's queue
// of notifications is full. The jobs in it are tried again, and not given up.
func TestFullQueueIsNoFaultOfAJob(t *testing.T) {
	limit := func(file string) error {
		return fmt.Errorf("commit: %w", &pgconn.PgError{SeverityUnlocalized: "ERROR", Code: pgerrcode.ProgramLimitExceeded, File: file, Message: "zu viel"})
	}
	full, index := limit("async.c"), limit("nbtutils.c")
	if aboutJob(full) || !aboutJob(index) {
		t.Errorf("about a job: a full queue %t, a value that an index cannot hold %t", aboutJob(full), aboutJob(index))
	}
	if text := explain(full).Error(); !strings.Contains(text, "queue of notifications is full") || !strings.HasSuffix(text, emptyQueue) {
		t.Errorf("explained as %q", text)
	}
}

// TestSystemErrorsAreBrief: an address that refuses us is named once.
func TestSystemErrorsAreBrief(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	if got := lastLine(fmt.Errorf("127.0.0.1:1 (127.0.0.1): dial error: %w", refused)); got != "connection refused" {
		t.Errorf("said as %q", got)
	}
	if got := lastLine(errors.New("this address\nthat address")); got != "that address" {
		t.Errorf("of a list, %q", got)
	}
}
