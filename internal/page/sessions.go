package page

import (
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// idleLimit is how long a session lasts in which nothing is asked for, absoluteLimit how long any does. A page that is
	// being shown asks.
	idleLimit, absoluteLimit = 2 * time.Hour, 12 * time.Hour
	// mostSessions bounds the memory. The one that was used least lately ends for a new one.
	mostSessions = 200
)

// session is somebody who has logged in by the password.
type session struct {
	name        string
	digest      [sha256.Size]byte // of the password that it was opened with
	began, used time.Time
}

// sessions are those of this instance, by the digest of their token: what is in memory opens no session.
type sessions struct {
	now func() time.Time

	mu sync.Mutex
	of map[[sha256.Size]byte]*session // guarded by mu
}

// open begins a session, and returns its token.
func (s *sessions) open(name string, word *password) (token string) {
	token = rand.Text() // 128 bits
	digest := word.current()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = map[[sha256.Size]byte]*session{}
	}
	now := s.now()
	for len(s.of) >= mostSessions {
		s.endOne(now)
	}
	s.of[sha256.Sum256([]byte(token))] = &session{name, digest, now, now}
	return token
}

// endOne ends the session that was used least lately. The caller holds mu.
func (s *sessions) endOne(now time.Time) {
	var oldest [sha256.Size]byte
	at := now.Add(time.Hour)
	for key, one := range s.of {
		if one.used.Before(at) {
			oldest, at = key, one.used
		}
	}
	delete(s.of, oldest)
}

// find returns a copy of the session with a token, and notes that it is used; nil: there is none, or it has ended.
func (s *sessions) find(token string, word *password) *session {
	if token == "" || word == nil {
		return nil
	}
	digest, key := word.current(), sha256.Sum256([]byte(token))
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.of[key]
	if one == nil {
		return nil
	}
	if now := s.now(); one.digest == digest && now.Sub(one.used) < idleLimit && now.Sub(one.began) < absoluteLimit {
		one.used = now
		found := *one
		return &found
	}
	delete(s.of, key)
	return nil
}

// end ends the session with a token.
func (s *sessions) end(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.of, sha256.Sum256([]byte(token)))
}

// cookieName is the name of the cookie. Cookies do not keep ports apart, and several instances may run on one host.
func (p *Page) cookieName(secure bool) string {
	if secure {
		return "__Host-reactor-" + p.port // a browser takes it from no other host, and only by TLS
	}
	return "reactor-" + p.port
}

// cookie returns the token that a request brings; "": none.
func (p *Page) cookie(r *http.Request) string {
	if c, err := r.Cookie(p.cookieName(p.secure(r))); err == nil {
		return c.Value
	}
	return ""
}

// setCookie gives a browser a token, or takes it away with "".
func (p *Page) setCookie(w http.ResponseWriter, r *http.Request, token string) {
	secure := p.secure(r)
	c := &http.Cookie{Name: p.cookieName(secure), Value: token, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: secure}
	if token == "" {
		c.MaxAge = -1
	} else {
		c.MaxAge = int(absoluteLimit.Seconds())
	}
	http.SetCookie(w, c)
}

// secure reports whether the browser's connection has TLS: ours, or that of a proxy that says so. If somebody else says so, that
// only makes their own cookie useless to them.
func (p *Page) secure(r *http.Request) bool {
	nearest, _, _ := strings.Cut(r.Header.Get("X-Forwarded-Proto"), ",") // several proxies make a list, the browser's connection first
	return r.TLS != nil || strings.EqualFold(strings.TrimSpace(nearest), "https")
}
