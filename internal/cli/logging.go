package cli

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/lmittmann/tint"
)

// LoggingFlags are the flags of the log.
type LoggingFlags struct {
	LogLevel  LogLevel `default:"info" group:"Logging" help:"Least important level to log: debug, info, warn or error."`
	LogFormat string   `default:"auto" enum:"auto,text,json" group:"Logging" help:"auto (coloured text on a terminal, JSON elsewhere), text or json."`
}

// LogLevel is a slog.Level whose parse error lists the possible values.
type LogLevel slog.Level

// Level implements slog.Leveler.
func (l LogLevel) Level() slog.Level { return slog.Level(l) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *LogLevel) UnmarshalText(text []byte) error {
	if err := (*slog.Level)(l).UnmarshalText(text); err != nil {
		return fmt.Errorf("unknown level %q: use debug, info, warn or error", text)
	}
	return nil
}

// Logger returns a logger that writes to w, in terms of the flags.
func (f LoggingFlags) Logger(w io.Writer) *slog.Logger {
	return slog.New(flagTermsHandler{f.handler(w)})
}

func (f LoggingFlags) handler(w io.Writer) slog.Handler {
	if f.LogFormat == "text" || f.LogFormat == "auto" && IsTerminal(w) {
		return textHandler(w, f.LogLevel, IsTerminal(w))
	}
	return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: f.LogLevel, ReplaceAttr: readable})
}

func textHandler(w io.Writer, level slog.Leveler, colour bool) slog.Handler {
	return tint.NewTextHandler(w, &tint.Options{Level: level, TimeFormat: time.TimeOnly + ".000", NoColor: !colour, ReplaceAttr: harmless})
}

// harmless shows the character that begins commands to a terminal. tint passes it on when it colours, and texts of anybody, such as those
// of brokers and servers, get into the log: they could change what was printed before, or send keys.
func harmless(_ []string, a slog.Attr) slog.Attr {
	text := ""
	if err, ok := a.Value.Any().(error); ok && err != nil {
		text = err.Error()
	} else if a.Value.Kind() == slog.KindString {
		text = a.Value.String()
	}
	if strings.Contains(text, "\x1b") {
		a.Value = slog.StringValue(strings.ReplaceAll(text, "\x1b", "␛"))
	}
	return a
}

// readable writes a duration as 1.5s, and not as a number whose unit nobody knows.
func readable(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}
