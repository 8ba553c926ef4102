// Package ratelog keeps a failure that repeats from flooding the log: the first is
// written at once, the following ones are counted and summed up now and then.
//
// What is limited is a reason, that is a message with the text of its error: another
// reason is news, and is written at once. A success does not start anew: what comes and
// goes many times a second would write two lines each time. While the log says that all
// is well, a reason that was written less than Interval ago is counted as well, and the
// next line says how often it came, and how often it went.
package ratelog

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"
)

const (
	// Interval is how often a repeated reason is written.
	Interval = 10 * time.Second
	// maxReasons bounds the reasons that are told apart within an Interval, and by that
	// the lines. All others count as one.
	maxReasons = 8
)

// Limiter limits what is said about one thing that may fail. The zero value is ready; it
// may be used from several goroutines.
type Limiter struct {
	mu      sync.Mutex
	reasons map[string]*reason // guarded by mu: at most maxReasons
	others  reason             // guarded by mu
	failing bool               // guarded by mu: the latest call was Fail
	shown   bool               // guarded by mu: the latest line says that it fails
	latest  time.Time          // guarded by mu: of the lines
	// Since the latest line: failures that no line tells of, and how often they ended.
	hidden, recovered int // guarded by mu
}

// reason is one way to fail.
type reason struct {
	next     time.Time // when it may be written again
	repeated int       // how often it was not, since it was
}

// Fail logs the failure, unless the same was logged less than Interval ago. The arguments
// "err" and "reason" tell one from the other, beside the message.
func (l *Limiter) Fail(log *slog.Logger, level slog.Level, msg string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failing = true
	now := time.Now()
	r := l.find(reasonOf(msg, args), now)
	if now.Before(r.next) {
		r.repeated++
		l.hidden++
		return
	}
	if r.repeated > 0 {
		args = append(args, "repeated", r.repeated)
	}
	args = l.recoveries(args)
	log.Log(context.Background(), level, msg, args...)
	l.hidden -= r.repeated
	r.next, r.repeated = now.Add(Interval), 0
	l.shown, l.latest = true, now
}

// OK logs that what failed works again, if the log says that it does not. Otherwise it
// sums up what the log does not tell, at most once an Interval.
func (l *Limiter) OK(log *slog.Logger, msg string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.failing && l.hidden == 0 {
		return
	}
	now := time.Now()
	if !l.shown {
		if l.failing {
			l.recovered++
		}
		l.failing = false
		if now.Before(l.latest.Add(Interval)) {
			return
		}
	}
	if l.hidden > 0 {
		args = append(args, "repeated", l.hidden)
	}
	log.Info(msg, l.recoveries(args)...)
	l.failing, l.shown, l.latest = false, false, now
	l.hidden, l.others.repeated = 0, 0
	for _, r := range l.reasons {
		r.repeated = 0
	}
}

// Sum logs how many failures no line tells of, if there are any: for what fails for good, so
// that no success ever sums it up, and maybe nothing of its kind follows.
func (l *Limiter) Sum(log *slog.Logger, level slog.Level, msg string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hidden == 0 {
		return
	}
	log.Log(context.Background(), level, msg, "repeated", l.hidden)
	l.hidden, l.others.repeated = 0, 0
	for _, r := range l.reasons {
		r.repeated = 0
	}
}

// recoveries adds how often it worked again meanwhile without a word.
func (l *Limiter) recoveries(args []any) []any {
	if l.recovered > 0 {
		args = append(args, "recovered", l.recovered)
	}
	l.recovered = 0
	return args
}

// find returns what is known of a reason.
func (l *Limiter) find(name string, now time.Time) *reason {
	if r := l.reasons[name]; r != nil {
		return r
	}
	if len(l.reasons) >= maxReasons { // forget those that may be written again anyway
		for name, r := range l.reasons {
			if !now.Before(r.next) {
				l.others.repeated += r.repeated
				delete(l.reasons, name)
			}
		}
	}
	if len(l.reasons) >= maxReasons {
		return &l.others
	}
	if l.reasons == nil {
		l.reasons = make(map[string]*reason)
	}
	r := new(reason)
	l.reasons[name] = r
	return r
}

// port is what differs between two attempts that fail alike: each comes from a port of
// its own.
var port = regexp.MustCompile(`:\d+`)

// reasonOf is the name of a reason.
func reasonOf(msg string, args []any) string {
	var name strings.Builder
	name.WriteString(msg)
	for i := 0; i < len(args); i++ {
		key, ok := args[i].(string)
		if !ok || i+1 == len(args) { // a slog.Attr, or a mistake of the caller
			continue
		}
		i++
		if key == "err" || key == "reason" {
			name.WriteByte('\n')
			name.WriteString(port.ReplaceAllString(fmt.Sprint(args[i]), ":"))
		}
	}
	return name.String()
}
