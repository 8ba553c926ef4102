package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/job-publisher/reactor/mqttsink"
	"github.com/job-publisher/reactor/reactor/driver"
)

// writeJSON writes a value on one line, or indented. What does not print is escaped, as in cli.Visible: the
// encoder leaves some of it as it is, such as U+009B, which begins a control sequence.
func writeJSON(w io.Writer, value any, indent bool) error {
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if indent {
		encoder.SetIndent("", "  ")
	}
	if err := encoder.Encode(value); err != nil {
		return err
	}
	var b strings.Builder
	for _, r := range text.String() {
		switch {
		case r == '\n', unicode.IsPrint(r):
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// exactText is an instant in UTC. A year may have six digits, or be negative: that before the year 1 is 0.
func exactText(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.999999Z07:00") }

// timeText is exactText; an instant later than the last DBTime is shown as that, which is in the year 294247.
func timeText(t driver.DBTime) string { return exactText(t.Time()) }

func timeTextOf(t *driver.DBTime) string {
	if t == nil {
		return ""
	}
	return timeText(*t)
}

// shortText is an instant in UTC for a table.
func shortText(t time.Time) string {
	return t.UTC().Truncate(time.Millisecond).Format("2006-01-02T15:04:05.000Z07:00")
}

// codeText is a reason code in words; "" for none.
func codeText(code int) string {
	if code <= 0 || code > 255 {
		return ""
	}
	if text := mqttsink.CodeText(byte(code)); text != "" {
		return fmt.Sprintf("0x%02X, %s", code, text)
	}
	return fmt.Sprintf("0x%02X", code)
}
