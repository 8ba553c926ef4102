package page

import (
	"bytes"
	"context"
	"errors"
	"html/template"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/job-publisher/reactor/internal/testkit"
	"github.com/job-publisher/reactor/internal/wait"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// fakeInstance has the health that a test gives it.
type fakeInstance struct{ stats reactor.Stats }

func (f fakeInstance) Stats() reactor.Stats   { return f.stats }
func (f fakeInstance) Health() reactor.Health { return f.stats.Health() }
func (f fakeInstance) Ahead() reactor.Ahead   { return reactor.Ahead{} }

var healthy = reactor.Stats{Shards: 64, Lanes: 3, LanesUp: 3, FeedUp: true, Loop: 2 * time.Second}

const secret = "open sesame"

// noDatabase is a database that cannot be reached.
type noDatabase struct{}

func (noDatabase) Look(context.Context, func(*pgsource.JobsAdmin) error) error {
	return errors.New("cannot connect")
}

func (d noDatabase) Change(ctx context.Context, do func(*pgsource.JobsAdmin) error) error {
	return d.Look(ctx, do)
}

// newPage returns a page that listens on loopback, unless a test changes that.
func newPage(t *testing.T, change func(*Config)) *Page {
	t.Helper()
	cfg := Config{Instance: fakeInstance{healthy}, Name: "one", Jobs: noDatabase{}, Address: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9883}, Logger: testkit.Logger(t)}
	if change != nil {
		change(&cfg)
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// everywhere makes a page listen on all addresses.
func everywhere(cfg *Config) { cfg.Address = &net.TCPAddr{IP: net.IPv6unspecified, Port: 9883} }

// withPassword gives a page a password, and returns its file.
func withPassword(t *testing.T, cfg *Config) (file string) {
	t.Helper()
	cfg.PasswordFile = filepath.Join(t.TempDir(), "password")
	testkit.WriteFile(t, cfg.PasswordFile, []byte(secret+"\n"))
	return cfg.PasswordFile
}

// ask sends a request from an address to a host, with the headers that are given in pairs.
func ask(p http.Handler, method, target, from, host string, body url.Values, headers ...string) *httptest.ResponseRecorder {
	var content io.Reader
	if body != nil {
		content = strings.NewReader(body.Encode())
	}
	r := httptest.NewRequest(method, target, content)
	r.RemoteAddr, r.Host = net.JoinHostPort(from, "4711"), host
	if body != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w
}

// TestWhoMayLook: on loopback everybody on this host, asked by a name that only means this host; elsewhere who has logged in, here
// or at a trusted proxy.
func TestWhoMayLook(t *testing.T) {
	t.Parallel()
	proxy := func(cfg *Config) {
		everywhere(cfg)
		cfg.UserHeader, cfg.TrustedProxies = "X-Forwarded-User", []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	}
	for name, test := range map[string]struct {
		change     func(*Config)
		from, host string
		headers    []string
		code       int
		text       string
	}{
		"this host":                      {nil, "127.0.0.1", "127.0.0.1:9883", nil, 200, ""},
		"this host by name":              {nil, "127.0.0.1", "LOCALHOST:9883", nil, 200, ""},
		"this host by IPv6":              {nil, "::1", "[::1]:9883", nil, 200, ""},
		"this host without a port":       {nil, "127.0.0.1", "localhost", nil, 200, ""},
		"another name for this host":     {nil, "127.0.0.1", "evil.example:9883", nil, 403, "http://localhost:9883/"},
		"a name that ends like ours":     {nil, "127.0.0.1", "localhost.evil.example", nil, 403, "needs a login here"},
		"no name":                        {nil, "127.0.0.1", "", nil, 403, "needs a login here"},
		"passed on by a proxy":           {nil, "127.0.0.1", "127.0.0.1:9883", []string{"X-Forwarded-For", "8.8.8.8"}, 403, "needs a login here"},
		"all addresses":                  {everywhere, "127.0.0.1", "127.0.0.1:9883", nil, 403, "--http-password-file FILE"},
		"from elsewhere":                 {everywhere, "10.1.2.3", "reactor.example", nil, 403, "--http-password-file FILE"},
		"the proxy names a user":         {proxy, "10.1.2.3", "reactor.example", []string{"X-Forwarded-User", "anna"}, 200, "anna"},
		"a stranger names a user":        {proxy, "10.2.2.3", "reactor.example", []string{"X-Forwarded-User", "anna"}, 403, "--http-trusted-proxies"},
		"the proxy names two":            {proxy, "10.1.2.3", "reactor.example", []string{"X-Forwarded-User", "root", "X-Forwarded-User", "anna"}, 403, "X-Forwarded-User"},
		"the proxy names nobody":         {proxy, "10.1.2.3", "reactor.example", []string{"X-Forwarded-User", "  "}, 403, "X-Forwarded-User"},
		"the proxy names what is hidden": {proxy, "10.1.2.3", "reactor.example", []string{"X-Forwarded-User", "a\u202eb"}, 403, "X-Forwarded-User"},
		"a proxy, and this host directly": {func(cfg *Config) {
			cfg.UserHeader, cfg.TrustedProxies = "X-Forwarded-User", []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
		}, "127.0.0.1", "127.0.0.1:9883", nil, 403, "--http-trusted-proxies"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPage(t, test.change)
			answer := ask(p, http.MethodGet, "/", test.from, test.host, nil, test.headers...)
			if answer.Code != test.code || !strings.Contains(answer.Body.String(), test.text) {
				t.Errorf("the answer is %d, want %d with %q:\n%s", answer.Code, test.code, test.text, answer.Body)
			}
			if test.code == 200 { // the stream would not end
				return
			}
			if code := ask(p, http.MethodGet, "/events", test.from, test.host, nil, test.headers...).Code; code != 403 {
				t.Errorf("the stream answers %d", code)
			}
		})
	}
}

// login logs in, and returns the cookie, as a header.
func login(t *testing.T, p http.Handler, password, from string) (code int, cookie string, answer *httptest.ResponseRecorder) {
	t.Helper()
	answer = ask(p, http.MethodPost, "/login", from, "reactor.example", url.Values{"password": {password}, "name": {"anna"}, "next": {"/?x=1"}})
	if all := answer.Result().Cookies(); len(all) > 0 {
		cookie = all[0].Name + "=" + all[0].Value
	}
	return answer.Code, cookie, answer
}

// TestLogin: a password lets in, for as long as its session lasts; logging out, time and another password end it.
func TestLogin(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	var file string
	p := newPage(t, func(cfg *Config) {
		everywhere(cfg)
		file = withPassword(t, cfg)
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	at := time.Now()
	p.sessions.now, p.guesses.now = func() time.Time { return at }, func() time.Time { return at }
	looks := func(cookie string) bool {
		return ask(p, http.MethodGet, "/", "10.0.0.1", "reactor.example", nil, "Cookie", cookie).Code == 200
	}
	if answer := ask(p, http.MethodGet, "/jobs/5?a=b", "10.0.0.1", "reactor.example", nil); answer.Code != 303 || answer.Header().Get("Location") != "/login?next=%2Fjobs%2F5%3Fa%3Db" {
		t.Errorf("without a login: %d, %v", answer.Code, answer.Header())
	}
	enter := func() string {
		t.Helper()
		code, cookie, answer := login(t, p, secret, "10.0.0.1")
		if code != 303 || answer.Header().Get("Location") != "/?x=1" || !looks(cookie) {
			t.Fatalf("the right password: %d, %v\n%s", code, answer.Header(), answer.Body)
		}
		for _, want := range []string{"HttpOnly", "SameSite=Strict", "Path=/"} {
			if !strings.Contains(answer.Header().Get("Set-Cookie"), want) {
				t.Errorf("the cookie %q lacks %q", answer.Header().Get("Set-Cookie"), want)
			}
		}
		return cookie
	}
	if looks("reactor-9883=x") || looks("") {
		t.Error("a token that was not given lets in")
	}

	cookie := enter()
	for cookie, code := range map[string]int{cookie: 204, "": 200} {
		if got := ask(p, http.MethodGet, "/session", "10.0.0.1", "reactor.example", nil, "Cookie", cookie).Code; got != code {
			t.Errorf("a session with the cookie %q: %d, want %d", cookie, got, code)
		}
	}
	ask(p, http.MethodPost, "/logout", "10.0.0.1", "reactor.example", url.Values{}, "Cookie", cookie)
	if looks(cookie) {
		t.Error("a session goes on after a logout")
	}
	cookie = enter()
	at = at.Add(idleLimit)
	if looks(cookie) {
		t.Error("an idle session goes on")
	}
	cookie = enter()
	for range 7 {
		at = at.Add(idleLimit - time.Minute)
		looks(cookie)
	}
	if looks(cookie) {
		t.Error("a session that is used lasts for ever")
	}
	cookie = enter()
	testkit.WriteFile(t, file, []byte("another "+secret))
	p.password.mu.Lock()
	p.password.read = time.Time{} // it is looked at once a second
	p.password.mu.Unlock()
	if looks(cookie) {
		t.Error("a session goes on with the password before")
	}
	if code, _, _ := login(t, p, secret, "10.0.0.2"); code != 403 {
		t.Errorf("the password before: %d", code)
	}
	if code, cookie, _ := login(t, p, "another "+secret, "10.0.0.2"); code != 303 || !looks(cookie) {
		t.Errorf("the new password: %d", code)
	}
	// A file that cannot be used changes nothing.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	p.password.read = time.Time{}
	if code, _, _ := login(t, p, "another "+secret, "10.0.0.2"); code != 303 {
		t.Errorf("without the file: %d", code)
	}
	if text := log.String(); strings.Contains(text, secret) || !strings.Contains(text, "who=anna from=10.0.0.1") || !strings.Contains(text, "a wrong password") || !strings.Contains(text, "cannot be used") {
		t.Error(text)
	}
	// By TLS, the cookie is for TLS only.
	answer := ask(p, http.MethodPost, "/login", "10.0.0.3", "reactor.example", url.Values{"password": {"another " + secret}}, "X-Forwarded-Proto", "https")
	if set := answer.Header().Get("Set-Cookie"); !strings.HasPrefix(set, "__Host-reactor-9883=") || !strings.Contains(set, "Secure") {
		t.Errorf("by TLS the cookie is %q", set)
	}
}

// TestGuessesAreSlowedDown: after some wrong passwords an address has to wait, longer each time, and also with the right one; another
// address does not.
func TestGuessesAreSlowedDown(t *testing.T) {
	t.Parallel()
	p := newPage(t, func(cfg *Config) { everywhere(cfg); withPassword(t, cfg) })
	at := time.Now()
	p.guesses.now = func() time.Time { return at }
	waited := time.Duration(0)
	for n := range 12 {
		code, _, answer := login(t, p, "wrong password", "2001:db8::1")
		if (code == http.StatusTooManyRequests) != (n >= freeGuesses) {
			t.Errorf("guess %d: %d", n, code)
		}
		if code == http.StatusTooManyRequests {
			if code, _, _ := login(t, p, secret, "2001:db8::2"); code != http.StatusTooManyRequests { // of the same network
				t.Errorf("the right password while it waits: %d", code)
			}
			wait, err := time.ParseDuration(answer.Header().Get("Retry-After") + "s")
			if err != nil || wait < waited {
				t.Fatalf("guess %d has to wait for %v, the one before for %v, %v", n, wait, waited, err)
			}
			waited = wait
			at = at.Add(wait)
			if code, _, _ := login(t, p, "wrong password", "2001:db8::1"); code != 403 {
				t.Errorf("after waiting: %d", code)
			}
		}
	}
	if waited != longestWait {
		t.Errorf("the last wait was %v, want %v", waited, longestWait)
	}
	if code, _, _ := login(t, p, secret, "10.0.0.9"); code != 303 {
		t.Errorf("from elsewhere: %d", code)
	}
	for n := range 3 * mostGuessers {
		p.guesses.begin(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}))
	}
	if len(p.guesses.of) > mostGuessers+1 {
		t.Errorf("%d networks are remembered", len(p.guesses.of))
	}
}

// TestPasswordFiles: what cannot be a password ends the start, in a line that does not show it.
func TestPasswordFiles(t *testing.T) {
	t.Parallel()
	for _, content := range []string{"", "\n", "sesame\r\n", strings.Repeat("sesame", mostPassword)} {
		path := filepath.Join(t.TempDir(), "password")
		testkit.WriteFile(t, path, []byte(content))
		if _, err := openPassword(path, nil); err == nil || strings.Contains(err.Error(), "sesame") || !strings.Contains(err.Error(), "--http-password-file") {
			t.Errorf("%d bytes: %v", len(content), err)
		}
	}
	if _, err := openPassword("/nowhere/file", nil); err == nil {
		t.Error("a file that is missing is taken")
	}
}

// TestNextStaysHere: after a form one comes back to the page, whatever a link says.
func TestNextStaysHere(t *testing.T) {
	t.Parallel()
	for next, want := range map[string]string{
		"/jobs?a=b": "/jobs?a=b", "": "/", "//evil.example/": "/", "https://evil.example/": "/", `/\evil.example`: "/", "javascript:alert(1)": "/", "/\tx": "/", "jobs": "/", "/login?next=/login": "/", "///evil.example": "/", "http:evil": "/",
	} {
		if got := safeNext(next); got != want {
			t.Errorf("%q leads to %q, want %q", next, got, want)
		}
	}
}

// TestOtherSites: what another site makes a browser send is refused, and every answer has the headers that keep other sites out.
func TestOtherSites(t *testing.T) {
	t.Parallel()
	p := newPage(t, func(cfg *Config) { withPassword(t, cfg) })
	for _, path := range []string{"/login", "/logout", "/theme"} {
		for _, headers := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Origin", "http://evil.example"}, {"Origin", "null"}} {
			if code := ask(p, http.MethodPost, path, "127.0.0.1", "localhost:9883", url.Values{"password": {secret}, "theme": {"dark"}}, headers...).Code; code != 403 {
				t.Errorf("%s with %v: %d", path, headers, code)
			}
		}
	}
	for _, path := range []string{"/", "/login", "/nothing", "/assets/page.css", "/assets/page.js", "/assets/nothing"} {
		h := ask(p, http.MethodGet, path, "127.0.0.1", "localhost:9883", nil).Header()
		if h.Get("Content-Security-Policy") != policy || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("X-Frame-Options") != "DENY" {
			t.Errorf("%s: %v", path, h)
		}
	}
	for _, unsafe := range []string{"unsafe", "*", "http", "data:"} {
		if strings.Contains(policy, unsafe) {
			t.Errorf("the policy has %q", unsafe)
		}
	}
	for _, part := range []string{" style=", " onclick", " onload", "<style", "<script>", "javascript:", "http://", "https://"} {
		if strings.Contains(templateText(), part) {
			t.Errorf("a template has %q, which the policy forbids, or which leads elsewhere", part)
		}
	}
	// To ask for the head of the stream starts none.
	if answer := ask(p, http.MethodHead, "/events", "127.0.0.1", "localhost:9883", nil); answer.Code != 200 || answer.Header().Get("Content-Type") != "text/event-stream" {
		t.Errorf("the head of the stream: %d, %v", answer.Code, answer.Header())
	}
	// An asset that did not change is not sent again.
	tag := ask(p, http.MethodGet, "/assets/page.js", "10.9.9.9", "any", nil).Header().Get("ETag")
	if answer := ask(p, http.MethodGet, "/assets/page.js", "10.9.9.9", "any", nil, "If-None-Match", tag); answer.Code != 304 || answer.Body.Len() > 0 {
		t.Errorf("the same asset: %d", answer.Code)
	}
}

// TestTheme: the choice is kept, and the page says it without a script.
func TestTheme(t *testing.T) {
	t.Parallel()
	p := newPage(t, nil)
	answer := ask(p, http.MethodPost, "/theme", "127.0.0.1", "localhost:9883", url.Values{"theme": {"dark"}, "next": {"/"}})
	if answer.Code != 303 || !strings.HasPrefix(answer.Header().Get("Set-Cookie"), themeCookie+"=dark;") {
		t.Errorf("%d, %v", answer.Code, answer.Header())
	}
	if text := ask(p, http.MethodGet, "/", "127.0.0.1", "localhost:9883", nil, "Cookie", themeCookie+"=dark").Body.String(); !strings.Contains(text, `data-theme="dark"`) || !strings.Contains(text, `value="dark" aria-pressed="true"`) {
		t.Error(text)
	}
	if text := ask(p, http.MethodGet, "/", "127.0.0.1", "localhost:9883", nil, "Cookie", themeCookie+`="><script>`).Body.String(); !strings.Contains(text, `data-theme="auto"`) {
		t.Error(text)
	}
}

// TestHub: nobody reads while nobody looks; one reads for all who look, and ends soon after them.
func TestHub(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		running, started, read := 0, 0, 0
		h := newHub(func(ctx context.Context, note func(reading)) {
			mu.Lock()
			running++
			started++
			mu.Unlock()
			for wait.Sleep(ctx, tick) {
				mu.Lock()
				read++
				mu.Unlock()
				note(reading{at: time.Now()})
			}
			mu.Lock()
			running--
			mu.Unlock()
		}, func(r reading) ([]fragment, string) {
			return []fragment{{ID: "same", HTML: "same"}, {ID: "time", HTML: template.HTML(r.at.String())}}, "title"
		})
		counts := func() (int, int, int) {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return running, started, read
		}
		time.Sleep(time.Hour)
		if _, started, _ := counts(); started != 0 {
			t.Error("somebody reads though nobody looks")
		}
		var leave []func()
		for range mostViewers {
			l, ok := h.enter(true)
			if !ok {
				t.Fatal("there is no room")
			}
			leave = append(leave, l)
		}
		if _, ok := h.enter(true); ok {
			t.Error("there is room for any number")
		}
		s, ok := h.first(t.Context())
		if !ok || !s.complete || s.title != "title" {
			t.Errorf("the first state is %+v", s)
		}
		number := s.number
		time.Sleep(10*tick + tick/2)
		if running, started, read := counts(); running != 1 || started != 1 || read > 12 {
			t.Errorf("%d run of %d, which have read %d times", running, started, read)
		}
		if s, _ = h.current(); s.number < number+9 || s.fragments[0].since > number || s.fragments[1].since < number+8 {
			t.Errorf("the state is %+v", s)
		}
		for _, l := range leave {
			l()
		}
		time.Sleep(linger - time.Millisecond)
		if running, _, _ := counts(); running != 1 {
			t.Error("it has ended too early")
		}
		time.Sleep(2 * time.Millisecond)
		_, _, before := counts()
		time.Sleep(time.Hour)
		if running, _, read := counts(); running != 0 || read != before {
			t.Error("it goes on though nobody looks any more")
		}
		l, _ := h.enter(true)
		if _, started, _ := counts(); started != 2 {
			t.Error("it has not begun again")
		}
		h.close()
		if running, _, _ := counts(); running != 0 {
			t.Error("it goes on after its end")
		}
		if _, ok := h.enter(true); ok {
			t.Error("it begins after its end")
		}
		l()
	})
}
