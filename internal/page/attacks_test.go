package page

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/reactor"
)

// counted counts what is read of a body.
type counted struct{ read int }

func (c *counted) Read(b []byte) (int, error) {
	c.read += len(b)
	return rand.Read(b)
}

// TestStrangersSendNoFiles: who has not logged in cannot make us read a body without end, by any method and as any kind of form.
func TestStrangersSendNoFiles(t *testing.T) {
	t.Parallel()
	p := newPage(t, func(cfg *Config) { everywhere(cfg); withPassword(t, cfg) })
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut} {
		for _, path := range []string{"/login", "/", "/theme", "/logout", "/session", "/jobs/act", "/schedule/act", "/assets/page.js"} {
			for _, kind := range []string{"multipart/form-data; boundary=x", "application/x-www-form-urlencoded"} {
				body := &counted{}
				begin := strings.NewReader("--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f\"\r\n\r\n")
				r := httptest.NewRequest(method, path, &endOf{begin, body, 8 << 20})
				r.RemoteAddr, r.Host = "10.0.0.9:4711", "reactor.example"
				r.Header.Set("Content-Type", kind)
				p.ServeHTTP(httptest.NewRecorder(), r)
				if body.read > 2*mostForm {
					t.Errorf("%s %s as %s: %d bytes were read", method, path, kind, body.read)
				}
			}
		}
	}
}

// endOf reads a beginning, and then so many bytes of more.
type endOf struct {
	begin *strings.Reader
	more  *counted
	left  int
}

func (e *endOf) Read(b []byte) (int, error) {
	if e.begin.Len() > 0 {
		return e.begin.Read(b)
	}
	if e.left -= len(b); e.left < 0 {
		return 0, http.ErrBodyReadAfterClose
	}
	return e.more.Read(b)
}

// TestOtherSitesAskForNothing: a page of another site can link to ours, and not make a browser ask for it in any other way.
func TestOtherSitesAskForNothing(t *testing.T) {
	t.Parallel()
	p := newPage(t, func(cfg *Config) { withPassword(t, cfg) })
	p.streamLife = time.Millisecond // one that is not refused would not end
	for _, test := range []struct {
		method, path, site, mode, dest string
		refused                        bool
	}{
		{"GET", "/login", "cross-site", "navigate", "document", false},
		{"GET", "/login", "none", "navigate", "document", false},
		{"GET", "/login", "cross-site", "navigate", "iframe", true},
		{"GET", "/jobs?key=x", "cross-site", "no-cors", "image", true},
		{"GET", "/jobs?key=x", "same-site", "no-cors", "script", true},
		{"GET", "/jobs?key=x", "cross-site", "cors", "empty", true},
		{"HEAD", "/jobs", "cross-site", "no-cors", "empty", true},
		{"GET", "/events", "cross-site", "no-cors", "image", true},
		{"GET", "/events", "cross-site", "navigate", "document", true},
		{"GET", "/session", "same-site", "cors", "empty", true},
		{"POST", "/theme", "same-site", "navigate", "document", true},
		{"POST", "/theme", "same-origin", "navigate", "document", false},
		{"POST", "/theme", "none", "", "", false},
		{"POST", "/logout", "garbage", "navigate", "document", true},
	} {
		w := ask(p, test.method, test.path, "127.0.0.1", "localhost:9883", nil, "Sec-Fetch-Site", test.site, "Sec-Fetch-Mode", test.mode, "Sec-Fetch-Dest", test.dest)
		if (w.Code == http.StatusForbidden) != test.refused {
			t.Errorf("%+v: %d", test, w.Code)
		}
	}
	// Another port of this host is another origin, and so is the name of an attacker that points here.
	for _, origin := range []string{"http://localhost:9884", "https://localhost.evil.example:9883", "http://localhost:9883.evil.example", "file://", "http://user@localhost"} {
		if w := ask(p, http.MethodPost, "/theme", "127.0.0.1", "localhost:9883", url.Values{"theme": {"dark"}}, "Origin", origin); w.Code != http.StatusForbidden {
			t.Errorf("from %s: %d", origin, w.Code)
		}
	}
}

// TestPassedOn: a request that any proxy has passed on is not of this host, whatever its client has put in front.
func TestPassedOn(t *testing.T) {
	t.Parallel()
	p := newPage(t, nil)
	for _, headers := range [][]string{
		{"X-Forwarded-For", "", "X-Forwarded-For", "8.8.8.8"},
		{"x-forwarded-for", ""},
		{"X-Forwarded-Proto", "https"},
		{"X-Forwarded-Port", "443"},
		{"X-Forwarded-User", "root"},
		{"Forwarded", "for=8.8.8.8"},
		{"Via", "1.1 proxy"},
		{"CF-Connecting-IP", "8.8.8.8"},
		{"True-Client-IP", "8.8.8.8"},
		{"X-Real-IP", "127.0.0.1"},
	} {
		if w := ask(p, http.MethodGet, "/nothing", "127.0.0.1", "localhost:9883", nil, headers...); w.Code != http.StatusForbidden {
			t.Errorf("%v: %d", headers, w.Code)
		}
	}
	for _, host := range []string{"localhost.", "127.0.0.1.nip.io", "2130706433", "0.0.0.0:9883", "[::]:9883", "127.0.0.1:9883:80", "localhost@evil", "evil\\localhost", "[::1", "0", "192.168.0.1"} {
		if w := ask(p, http.MethodGet, "/nothing", "127.0.0.1", host, nil); w.Code != http.StatusForbidden {
			t.Errorf("as %q: %d", host, w.Code)
		}
	}
}

// TestStrangersLearnNothing: who may not look sees neither the name of the instance, nor its version, nor whether a job exists.
func TestStrangersLearnNothing(t *testing.T) {
	t.Parallel()
	for _, word := range []bool{true, false} {
		p := newPage(t, func(cfg *Config) {
			everywhere(cfg)
			cfg.Name, cfg.Version = "host-17", "v9.8.7"
			if word {
				withPassword(t, cfg)
			}
		})
		for _, path := range []string{"/", "/login", "/jobs/1", "/nothing", "/events", "/session", "/schedule?name=x"} {
			for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodDelete, http.MethodOptions} {
				w := ask(p, method, path, "10.0.0.9", "reactor.example", url.Values{})
				if text := fmt.Sprint(w.Body, w.Header()); strings.Contains(text, "host-17") || strings.Contains(text, "v9.8.7") || w.Code == http.StatusOK && path != "/login" && w.Body.Len() > 0 {
					t.Errorf("%s %s: %d %s", method, path, w.Code, text)
				}
			}
		}
	}
}

// TestSessionsAreNotFixed: a login gives a new token, and ends the one that the browser had, whoever has put it there.
func TestSessionsAreNotFixed(t *testing.T) {
	t.Parallel()
	p := newPage(t, func(cfg *Config) { everywhere(cfg); withPassword(t, cfg) })
	_, before, _ := login(t, p, secret, "10.0.0.1")
	form := url.Values{"password": {secret}}
	answer := ask(p, http.MethodPost, "/login", "10.0.0.1", "reactor.example", form, "Cookie", before)
	looks := func(cookie string) bool {
		return ask(p, http.MethodGet, "/session", "10.0.0.1", "reactor.example", nil, "Cookie", cookie).Code == http.StatusNoContent
	}
	cookies := answer.Result().Cookies()
	if len(cookies) != 1 || looks(before) || !looks(cookies[0].Name+"="+cookies[0].Value) {
		t.Errorf("after another login the session before is open: %v, %v", looks(before), cookies)
	}
	answer = ask(p, http.MethodPost, "/login", "10.0.0.1", "reactor.example", form, "Cookie", "reactor-9883=CHOSENBYANATTACKER1234567")
	if strings.Contains(answer.Header().Get("Set-Cookie"), "CHOSEN") || looks("reactor-9883=CHOSENBYANATTACKER1234567") {
		t.Errorf("a token from outside is used: %v", answer.Header())
	}
	answer = ask(p, http.MethodPost, "/login", "10.0.0.1", "reactor.example", form, "X-Forwarded-Proto", "HTTPS, http")
	if set := answer.Header().Get("Set-Cookie"); !strings.HasPrefix(set, "__Host-") || !strings.Contains(set, "Secure") {
		t.Errorf("behind two proxies the cookie is %q", set)
	}
}

// newLoggedPage returns a page to which anybody may log in by the password, and what it logs.
func newLoggedPage(t *testing.T, set func(*Config)) (*Page, *bytes.Buffer) {
	t.Helper()
	log := new(bytes.Buffer)
	return newPage(t, func(cfg *Config) {
		everywhere(cfg)
		withPassword(t, cfg)
		cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
		set(cfg)
	}), log
}

// TestGuessesByHeader: an address that a client claims to have is no address.
func TestGuessesByHeader(t *testing.T) {
	t.Parallel()
	p, log := newLoggedPage(t, func(cfg *Config) {
		cfg.UserHeader, cfg.TrustedProxies = "X-Forwarded-User", []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	})
	for n := range freeGuesses + 1 {
		form := url.Values{"password": {"guess"}, "name": {"x\" level=ERROR\n2026 msg=\x1b[2J"}}
		if n == 0 { // no name for a log
			if code := ask(p, http.MethodPost, "/login", "10.0.0.1", "reactor.example", form).Code; code != http.StatusBadRequest {
				t.Errorf("a name of several lines: %d", code)
			}
		}
		form.Set("name", `x" level=ERROR`)
		code := ask(p, http.MethodPost, "/login", "10.0.0.1", "reactor.example", form, "X-Forwarded-For", fmt.Sprintf("8.8.8.%d", n), "X-Forwarded-User", "root").Code
		if (code == http.StatusTooManyRequests) != (n == freeGuesses) {
			t.Errorf("guess %d: %d", n, code)
		}
	}
	if strings.Contains(log.String(), "\nmsg") || strings.Contains(log.String(), "\x1b") || strings.Count(log.String(), "\n") != freeGuesses {
		t.Error(log.String())
	}
}

// TestPasswordAsName: who types the password into the field of the name does not have it logged, or shown.
func TestPasswordAsName(t *testing.T) {
	t.Parallel()
	p, log := newLoggedPage(t, func(*Config) {})
	for _, word := range []string{"", "wrong", secret} {
		answer := ask(p, http.MethodPost, "/login", "10.0.0.1", "reactor.example", url.Values{"name": {secret}, "password": {word}})
		if (answer.Code == http.StatusSeeOther) != (word == secret) || strings.Contains(answer.Body.String(), secret) {
			t.Errorf("with %q: %d\n%s", word, answer.Code, answer.Body)
		}
	}
	if strings.Contains(log.String(), secret) || strings.Count(log.String(), "name=operator") != 2 || !strings.Contains(log.String(), "who=operator") {
		t.Error(log.String())
	}
}

// TestStreamsEnd: a stream ends by itself, so that a proxy is asked again whether its user may look.
func TestStreamsEnd(t *testing.T) {
	t.Parallel()
	p := newPage(t, nil)
	p.streamLife = time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/events", nil)
	r.RemoteAddr, r.Host = "127.0.0.1:4711", "localhost:9883"
	p.ServeHTTP(httptest.NewRecorder(), r)
	if ctx.Err() != nil {
		t.Error("the stream does not end")
	}
}

// brokenInstance has a defect.
type brokenInstance struct{ fakeInstance }

func (brokenInstance) Ahead() reactor.Ahead { panic("a defect") }

// TestDefectsAreContained: a defect of a chart ends neither the instance nor the page, and shows nobody where it is.
func TestDefectsAreContained(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	p := newPage(t, func(cfg *Config) {
		cfg.Instance = brokenInstance{fakeInstance{healthy}}
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	fragments, _ := p.renderOverview(reading{})
	if len(fragments) != len(overviewParts) || !strings.Contains(string(fragments[0].HTML), "could not be made") || strings.Contains(string(fragments[0].HTML), "a defect") {
		t.Errorf("%v", fragments)
	}
	if text := log.String(); !strings.Contains(text, "a defect") || !strings.Contains(text, "attacks_test.go") {
		t.Error(text)
	}
}

// TestLongTextsAreShort: a topic may have 65,535 bytes, of which a list shows the beginning.
func TestLongTextsAreShort(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "", "lamp/1": "lamp/1", strings.Repeat("ü", mostShort): strings.Repeat("ü", mostShort), strings.Repeat("ü", mostShort+1): strings.Repeat("ü", mostShort) + "…", "a\u202eb": `a\u202eb`,
	} {
		if got := short(text); got != want {
			t.Errorf("%q becomes %q", text, got)
		}
	}
}

// TestLongPasswordFiles: a file that has no end is none, and is not read to its end.
func TestLongPasswordFiles(t *testing.T) {
	t.Parallel()
	if _, err := openPassword("/dev/zero", nil); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Error(err)
	}
	file := filepath.Join(t.TempDir(), "password")
	testkit.WriteFile(t, file, []byte(strings.Repeat("x", mostPassword)+"\r\n"))
	if _, err := openPassword(file, nil); err != nil {
		t.Error(err)
	}
}

// TestQuestions: one is answered once, by whom it was asked, and the oldest is forgotten for a new one.
func TestQuestions(t *testing.T) {
	t.Parallel()
	var q questions
	name := q.ask(question{who: "anna"})
	if _, ok := q.answer(name, "bert"); ok {
		t.Error("somebody else has answered")
	}
	if _, ok := q.answer(name, "anna"); !ok {
		t.Error("it cannot be answered")
	}
	if _, ok := q.answer(name, "anna"); ok {
		t.Error("it was answered twice")
	}
	first := q.ask(question{who: "anna"})
	for range 5 * mostQuestions {
		q.ask(question{who: "anna"})
	}
	if _, ok := q.answer(first, "anna"); ok || len(q.all) != mostQuestions {
		t.Errorf("%d questions are kept", len(q.all))
	}
	old := q.ask(question{who: "anna"})
	q.all[len(q.all)-1].asked = time.Now().Add(-questionLife)
	if _, ok := q.answer(old, "anna"); ok {
		t.Error("an old one was answered")
	}
}
