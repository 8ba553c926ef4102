package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/job-publisher/reactor/internal/page"
	"github.com/job-publisher/reactor/internal/testkit"
)

// TestPageFlags: what cannot be meant ends the start, in a line that says what to give.
func TestPageFlags(t *testing.T) {
	t.Parallel()
	short := filepath.Join(t.TempDir(), "password")
	testkit.WriteFile(t, short, []byte("sesame\n"))
	run := []string{"run", "--no-migrate", "--database-url", "postgres://127.0.0.1:1/x", "--mqtt-url", "mqtt://x", "--http-addr", "127.0.0.1:0"}
	for args, want := range map[string]string{
		"--http-page no":                                                  "use on, read-only or off",
		"--http-user-header X-User":                                       "belong together",
		"--http-trusted-proxies 10.0.0.1":                                 "belong together",
		"--http-password-file " + short:                                   "fewer than 8 characters",
		"--http-password-file /nowhere/it":                                "no such file",
		"--http-user-header X-User --http-trusted-proxies 10.0.0.1,proxy": `"proxy", which is no address`,
		"--http-user-header X-User: --http-trusted-proxies 10.0.0.1":      "must be the name of a header",
	} {
		code, output := call(t, nil, append(run, strings.Fields(args)...)...)
		if code != 2 || len(lines(output)) != 1 || !strings.Contains(output, want) || strings.Contains(output, "sesame") {
			t.Errorf("%s ended with %d, want %q:\n%s", args, code, want, output)
		}
	}
	list, err := pageFlags{HTTPUserHeader: "X-User", HTTPTrustedProxies: "10.0.0.1, ::ffff:10.0.0.2,10.1.0.0/16,fd00::/8"}.proxies()
	if got := fmt.Sprint(list); err != nil || got != "[10.0.0.1/32 10.0.0.2/32 10.1.0.0/16 fd00::/8]" {
		t.Errorf("%v, %v", got, err)
	}
}

// TestPageBesideMonitoring: the paths that programs ask are as they are without the page, wherever somebody asks from.
func TestPageBesideMonitoring(t *testing.T) {
	view, err := page.New(page.Config{Instance: fakeInstance{}, Address: &net.TCPAddr{IP: net.IPv6unspecified, Port: 9883}, Logger: testkit.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	for _, test := range []struct {
		method, path string
		code         int
		without      int
	}{
		{"GET", "/metrics", 200, 200},
		{"GET", "/healthz", 200, 200},
		{"GET", "/readyz", 503, 503},
		{"POST", "/metrics", 405, 405},
		{"POST", "/readyz", 405, 405},
		{"GET", "/debug/pprof/", 404, 404},
		{"GET", "/", 403, 404},
		{"GET", "/nothing", 403, 404},
	} {
		for _, with := range []struct {
			view *page.Page
			code int
		}{{view, test.code}, {nil, test.without}} {
			answer := httptest.NewRecorder()
			handler(fakeInstance{}, with.view, false).ServeHTTP(answer, httptest.NewRequest(test.method, test.path, http.NoBody))
			if answer.Code != with.code {
				t.Errorf("%s %s with a page %v: %d, want %d", test.method, test.path, with.view != nil, answer.Code, with.code)
			}
		}
	}
}
