// Package ratelog limits how often a repeated failure is logged. It logs the first failure at once,
// counts the following ones, and logs their number once per Interval.
//
// The limit applies to a reason, which is a message together with the text of its error. Another
// reason is logged at once. A success does not reset the limit: otherwise a failure that occurs and
// ends many times per second would write two lines each time. So a reason that was logged less than
// Interval ago is only counted, even if the latest line says that the operation works. The next line
// says how many failures were not logged, and how many times they ended.
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
	// Interval is how often a repeated reason is logged.
	Interval = 10 * time.Second
	// maxReasons is how many different reasons an Interval can have. It limits the number of lines.
	// All further reasons count as one reason.
	maxReasons = 8
)

// Limiter limits the log lines about one operation that may fail. The zero value is ready to use;
// several goroutines may use it.
type Limiter struct {
	mu      sync.Mutex
	reasons map[string]*reason // guarded by mu: at most maxReasons
	others  reason             // guarded by mu
	failing bool               // guarded by mu: the latest call was Fail
	shown   bool               // guarded by mu: the latest line reports a failure
	latest  time.Time          // guarded by mu: time of the latest line
	// hidden is the number of failures that no line has reported yet. recovered is how many times
	// a failure ended without a line since the latest line.
	hidden, recovered int // guarded by mu
}

// reason is one way to fail.
type reason struct {
	next     time.Time // when it may be logged again
	repeated int       // failures that were not logged since the last line with this reason
}

// Fail logs the failure, unless the same reason was logged less than Interval ago. A reason is the
// message with the values of the arguments "err" and "reason".
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

// OK logs that the operation works again, if the latest line reports a failure. Otherwise it logs
// the number of failures that were not logged, if there are any, at most once per Interval.
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

// Sum logs the number of failures that no line has reported yet, if there are any. It is for
// operations that are not tried again: no later success, and perhaps no later failure, would log the
// number.
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

// recoveries adds how many times the failure ended without being logged.
func (l *Limiter) recoveries(args []any) []any {
	if l.recovered > 0 {
		args = append(args, "recovered", l.recovered)
	}
	l.recovered = 0
	return args
}

// find returns the record of a reason.
func (l *Limiter) find(name string, now time.Time) *reason {
	if r := l.reasons[name]; r != nil {
		return r
	}
	if len(l.reasons) >= maxReasons { // remove the reasons that may be logged again now
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

// port matches a port in an error text. Each connection has its own local port, so without this two
// attempts with the same reason would have different texts.
var port = regexp.MustCompile(`:\d+`)

// reasonOf returns the name of a reason.
func reasonOf(msg string, args []any) string {
	var name strings.Builder
	name.WriteString(msg)
	for i := 0; i < len(args); i++ {
		key, ok := args[i].(string)
		if !ok || i+1 == len(args) { // a slog.Attr, or a key without a value
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
