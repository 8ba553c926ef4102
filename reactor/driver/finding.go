package driver

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Finding is the answer to one question about what surrounds an instance: a server, a setting, a right.
// pgsource.Examine and mqttsink.Sink.Examine return them.
type Finding struct {
	// Check is the name of the question, which stays the same from version to version.
	Check   string
	Verdict Verdict
	// What was found, in one line.
	What string
	// Remedy says what to do about it, in one line; "" if there is nothing to do.
	Remedy string
}

// Verdict is how good a Finding is.
type Verdict uint8

const (
	// Fine: nothing has to be done.
	Fine Verdict = iota
	// Warning: it works, but something is lost by it: time, or a safety net.
	Warning
	// Problem: an instance does not start, or does not keep its promises.
	Problem
	// Unknown: the question could not be asked.
	Unknown
)

// String is the name of a verdict: ok, warning, problem or unknown.
func (v Verdict) String() string {
	switch v {
	case Fine:
		return "ok"
	case Warning:
		return "warning"
	case Problem:
		return "problem"
	case Unknown:
		return "unknown"
	}
	return fmt.Sprintf("Verdict(%d)", uint8(v))
}

// FindingOf makes a finding of an error. Errors of ours name the remedy behind their last colon. What an
// error has from its cause, or from a server, is no remedy.
func FindingOf(check string, verdict Verdict, err error) Finding {
	f := Finding{Check: check, Verdict: verdict, What: err.Error()}
	tail := innermost(err)
	if serverText.MatchString(tail) {
		return f
	}
	if at := lastColon(tail); at >= 0 {
		f.Remedy = tail[at+2:]
		f.What = strings.TrimSuffix(f.What, tail[at:])
	}
	return f
}

// lastColon returns where the last colon is that a space follows, and that is not inside of parentheses; -1 if
// there is none.
func lastColon(text string) int {
	depth := 0
	for i := len(text) - 1; i >= 0; i-- {
		switch {
		case text[i] == ')':
			depth++
		case text[i] == '(':
			depth--
		case depth == 0 && strings.HasPrefix(text[i:], ": "):
			return i
		}
	}
	return -1
}

// serverText matches the end of what a server says.
var serverText = regexp.MustCompile(`\(SQLSTATE [0-9A-Z]{5}\)$`)

// innermost returns the text of the innermost cause that ends the text of an error.
func innermost(err error) string {
	text := err.Error()
	var causes []error
	switch wrapper := err.(type) {
	case interface{ Unwrap() error }:
		causes = []error{wrapper.Unwrap()}
	case interface{ Unwrap() []error }:
		causes = wrapper.Unwrap()
	}
	for _, cause := range causes {
		if cause != nil && strings.HasSuffix(text, cause.Error()) {
			return innermost(cause)
		}
	}
	var plain interface{ Timeout() bool } // of the network, or of a deadline
	if errors.As(err, &plain) && len(causes) == 0 {
		return ""
	}
	return text
}
