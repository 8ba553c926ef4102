package cli

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// TestLogOnATerminal: the log has colours there, and nobody whose text is logged can send commands to the terminal.
func TestLogOnATerminal(t *testing.T) {
	t.Parallel()
	for _, colour := range []bool{true, false} {
		var out bytes.Buffer
		log := slog.New(textHandler(&out, slog.LevelInfo, colour))
		text := "a\x1b[2J\nb\x1b]0;title\a\u009b31m"
		log.With("with", text).Warn("it says", "name", text, "err", errors.New(text), "group", slog.GroupValue(slog.String("in", text)), "n", 5, "none", nil)
		for _, command := range []string{"\x1b[2J", "\x1b]", "\u009b", "\a", "\nb"} {
			if strings.Contains(out.String(), command) {
				t.Errorf("with colours %v, the log has %q:\n%q", colour, command, out.String())
			}
		}
		if got := out.String(); strings.Contains(got, "\x1b[") != colour || !strings.Contains(got, "it says") || !strings.Contains(got, "WRN") || strings.Count(got, "\n") != 1 {
			t.Errorf("with colours %v, the log is %q", colour, got)
		}
	}
}
