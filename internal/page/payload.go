package page

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/job-publisher/reactor/internal/cli"
	"github.com/job-publisher/reactor/internal/words"
	"github.com/job-publisher/reactor/pgsource"
)

const (
	// mostPayload is up to which size a payload is shown as a whole, in bytes; of a larger one the beginning is.
	mostPayload = 64 << 10
	// mostSent is up to which size it is sent as a file: it is in memory meanwhile.
	mostSent = 4 << 20
	// mostHex is how much of it is shown in hexadecimal digits.
	mostHex = 4 << 10
)

// payloadView is a payload in the ways in which it can be read.
type payloadView struct {
	Size   string
	Kind   string // "JSON", "text" or "binary"
	Pretty string // JSON with a line for each value; "": it is none
	Text   string // "": it is binary
	Hex    string
	Note   string // what is not shown
}

// payloadViewOf is for the beginning of a payload of a size, or for all of it.
func payloadViewOf(payload []byte, size int64) payloadView {
	v := payloadView{Size: words.Thousands(size) + " bytes", Kind: "binary", Hex: hex.Dump(payload[:min(len(payload), mostHex)])}
	if size == 1 {
		v.Size = "1 byte"
	}
	whole := int64(len(payload)) == size
	if text := payload; utf8.Valid(text) || !whole && utf8.Valid(text[:lastRune(text)]) {
		v.Kind, v.Text = "text", visibleLines(string(text))
		var pretty bytes.Buffer
		if first := bytes.TrimLeft(text, " \t\r\n"); whole && len(first) > 0 && (first[0] == '{' || first[0] == '[') && json.Indent(&pretty, text, "", "  ") == nil {
			v.Kind, v.Pretty = "JSON", visibleLines(pretty.String())
		}
	}
	if !whole {
		v.Note = fmt.Sprintf("These are the first %s bytes.", words.Thousands(int64(len(payload))))
	} else if len(payload) > mostHex {
		v.Note = fmt.Sprintf("The first %s bytes are shown as hexadecimal digits.", words.Thousands(mostHex))
	}
	return v
}

// lastRune is where the last character of a text begins, which may have been cut off.
func lastRune(text []byte) int {
	for i := len(text) - 1; i >= max(0, len(text)-utf8.UTFMax); i-- {
		if utf8.RuneStart(text[i]) {
			return i
		}
	}
	return len(text)
}

// visibleLines shows what does not print, and keeps the lines.
func visibleLines(text string) string {
	var lines []string
	for line := range strings.SplitSeq(strings.ToValidUTF8(text, "\uFFFD"), "\n") {
		lines = append(lines, cli.Visible(strings.TrimSuffix(line, "\r")))
	}
	return strings.Join(lines, "\n")
}

var errTooLarge = fmt.Errorf("the page sends payloads of up to %d MB: `reactor jobs show ID --payload` writes it out", mostSent>>20)

// sendPayload answers with a payload as a file, which a browser stores and never shows.
func (p *Page) sendPayload(w http.ResponseWriter, r *http.Request, c caller) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	var payload []byte
	if err == nil {
		err = p.cfg.Jobs.Look(r.Context(), func(a *pgsource.JobsAdmin) error {
			found, err := a.Show(r.Context(), id)
			if err == nil && found[0].PayloadSize > mostSent {
				err = errTooLarge
			}
			if err == nil {
				payload, err = a.Payload(r.Context(), id)
			}
			return err
		})
	} else {
		err = pgsource.ErrNoJob
	}
	switch {
	case errors.Is(err, pgsource.ErrNoJob):
		p.say(w, r, c, http.StatusNotFound, "There is no such job", "Its row may have been deleted.")
		return
	case errors.Is(err, errTooLarge):
		p.say(w, r, c, http.StatusForbidden, "This payload is too large for the page", capital(err.Error())+".")
		return
	case err != nil:
		p.sayError(w, r, c, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="job-%d.bin"`, id))
	_, _ = w.Write(payload) // it fails only if the client is gone
}
