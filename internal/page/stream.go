package page

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// streamTimeout is how long a viewer may take for what is written to it at once.
const streamTimeout = 10 * time.Second

// streamLife is how long a stream goes on before the browser has to ask again. A proxy whose user is gone refuses that.
const streamLife = 10 * time.Minute

// events sends the parts of the overview that have changed, as server-sent events, until the viewer goes or we do. Something is
// sent with each tick, so that both sides notice when the other one is gone.
func (p *Page) events(w http.ResponseWriter, r *http.Request) {
	if !p.identify(r).mayLook() {
		http.Error(w, "log in", http.StatusForbidden)
		return
	}
	if r.Method == http.MethodHead { // it would wait for a body that never comes
		w.Header().Set("Content-Type", "text/event-stream")
		return
	}
	leave, ok := p.hub.enter(true)
	if !ok {
		w.Header().Set("Retry-After", "15")
		http.Error(w, fmt.Sprintf("%d others are looking already, or the instance is about to end", mostViewers), http.StatusServiceUnavailable)
		return
	}
	defer leave()
	control := http.NewResponseController(w)
	// The server's limits are for short answers. The one for reading would end the request, too.
	_ = control.SetReadDeadline(time.Time{}) // an error shows when the answer is written
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would collect what we send
	enough := time.NewTimer(p.streamLife)
	defer enough.Stop()
	seen := uint64(0)
	for {
		s, changed := p.hub.current()
		if s != nil && s.number > seen {
			_ = control.SetWriteDeadline(time.Now().Add(streamTimeout))
			for _, f := range s.fragments {
				if f.since > seen {
					if _, err := w.Write(f.event); err != nil {
						return
					}
				}
			}
			if _, err := w.Write(s.tick); err != nil || control.Flush() != nil {
				return
			}
			seen = s.number
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		case <-enough.C:
			return
		case <-p.hub.ended:
			_, _ = w.Write(eventOf("end", map[string]string{}))
			return
		}
		if !p.identify(r).mayLook() { // the session has ended
			return
		}
	}
}

// eventOf is a server-sent event.
func eventOf(name string, data map[string]string) []byte {
	text, err := json.Marshal(data) // on one line, as the format wants it
	if err != nil {
		panic(err) // of strings it cannot fail
	}
	return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", name, text)
}
