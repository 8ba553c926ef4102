package page

import "net/http"

// policy is the Content-Security-Policy of every answer. Scripts, styles and connections are ours or none, and nothing is
// inline, so that a text that gets past the templates would still not run.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// secured sets the headers of every answer, and refuses what another site makes a browser send.
func secured(next http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "another site has sent this request: open the page itself. A proxy has to pass on the header Host as it is.", http.StatusForbidden)
	}))
	protected := protection.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		// Not no-referrer: forms would be sent with "Origin: null", which is taken for another site.
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if foreign(r) {
			http.Error(w, "another site has asked for this", http.StatusForbidden)
			return
		}
		protected.ServeHTTP(w, r)
	})
}

// foreign reports whether another site makes a browser ask for something, other than by a link to a page. It cannot read the
// answer, but it could measure how long a search takes, and take all the places of those who look.
func foreign(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "cross-site", "same-site":
		return r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Header.Get("Sec-Fetch-Dest") != "document" || r.URL.Path == "/events"
	}
	return false // or a browser that does not tell, which the cookie and the login are for
}
