package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// screen is what somebody looks at. The zero value is a light one of 1280 × 900 pixels in UTC.
type screen struct {
	width, height int64
	dark, phone   bool
	zone          string
	sharp         float64 // pixels of the device for each of the page; 0: 1
}

// tab is one in which a test looks at the page. Its methods are for the goroutine of the test.
type tab struct {
	t   testing.TB
	ctx context.Context

	left int // how many pages were left

	mu         sync.Mutex
	origin     string                 // guarded by mu
	complaints []string               // guarded by mu
	accepted   func(text string) bool // guarded by mu; complaints that the test expects
}

// newTab opens a tab with cookies of its own. What it has recorded is judged when the test ends.
func newTab(t testing.TB, browser context.Context, s screen) *tab {
	t.Helper()
	x := &tab{t: t, accepted: func(string) bool { return false }}
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext(), chromedp.WithListener(x.listen))
	x.ctx = ctx
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Log("the tab:", err)
		}
		cancel()
		x.mu.Lock()
		defer x.mu.Unlock()
		for _, text := range x.complaints {
			if !x.accepted(text) {
				t.Error("the browser: " + text)
			}
		}
	})
	if s.width == 0 {
		s.width, s.height = 1280, 900
	}
	if s.zone == "" {
		s.zone = "UTC"
	}
	scheme := "light"
	if s.dark {
		scheme = "dark"
	}
	x.do("a tab",
		call(audits.Enable, struct{}{}),
		call(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: s.width, Height: s.height, DeviceScaleFactor: max(s.sharp, 1), Mobile: s.phone}),
		call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}),
		call(emulation.SetTimezoneOverride, emulation.SetTimezoneOverrideParams{TimezoneID: s.zone}),
		call(emulation.SetLocaleOverride, emulation.SetLocaleOverrideParams{Locale: "en-GB"}),
		call(emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true}),
	)
	return x
}

// listen records what a page must not do. It is called from the goroutine that reads from the browser.
func (x *tab) listen(event any) {
	x.mu.Lock()
	defer x.mu.Unlock()
	complain := func(format string, args ...any) { x.complaints = append(x.complaints, fmt.Sprintf(format, args...)) }
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		var texts []string
		for _, arg := range e.Args {
			texts = append(texts, arg.Description+string(arg.Value))
		}
		complain("console.%s: %s", e.Type, strings.Join(texts, " "))
	case *runtime.EventExceptionThrown:
		text := e.ExceptionDetails.Text
		if thrown := e.ExceptionDetails.Exception; thrown != nil {
			text += " " + thrown.Description
		}
		complain("exception: %s", text)
	case *log.EventEntryAdded:
		complain("%s of %s: %s (%s)", e.Entry.Level, e.Entry.Source, e.Entry.Text, e.Entry.URL)
	case *audits.EventIssueAdded:
		details, _ := json.Marshal(e.Issue.Details) // without them the code says enough
		complain("issue %s: %s", e.Issue.Code, details)
	case *page.EventJavascriptDialogOpening:
		complain("dialog: %s", e.Message)
		// Until it is closed, the page does not go on. A listener must not wait for an answer.
		go func() {
			_, _ = chromedp.Call(x.ctx, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{Accept: true})
		}()
	case *network.EventRequestWillBeSent:
		if at := e.Request.URL; at != "about:blank" && !strings.HasPrefix(at, x.origin+"/") {
			complain("request to %s", at)
		}
	case *network.EventWebSocketCreated:
		complain("WebSocket to %s", e.URL)
	}
}

// accept says which complaints are expected from now on.
func (x *tab) accept(these func(text string) bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.accepted = these
}

// do runs actions, or fails the test.
func (x *tab) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	x.t.Helper()
	if err := x.try(steps...); err != nil {
		x.t.Fatalf("%s: %v", what, err)
	}
}

func (x *tab) try(steps ...chromedp.Action[chromedp.Void]) error {
	if err := chromedp.Do(x.ctx); err != nil { // the first time it makes the tab, which lives as long as this context
		return err
	}
	ctx, cancel := context.WithTimeout(x.ctx, patience)
	defer cancel()
	return chromedp.Do(ctx, steps...)
}

// open shows an address, by typing it.
func (x *tab) open(address string) {
	x.t.Helper()
	at, err := url.Parse(address)
	if err != nil {
		x.t.Fatal(err)
	}
	x.mu.Lock()
	x.origin = at.Scheme + "://" + at.Host
	x.mu.Unlock()
	x.do("open "+address, chromedp.Navigate(address))
}

// js evaluates an expression in the page, by the debugger, so that the page's policy does not matter.
func js[T any](x *tab, expression string) T {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(x.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		x.t.Fatalf("%s: %v", expression, err)
	}
	return value
}

// until waits until an expression is true. It survives that the page is replaced meanwhile.
func (x *tab) until(expression string) {
	x.t.Helper()
	eventually(x.t, expression, func() (bool, string) {
		ctx, cancel := context.WithTimeout(x.ctx, patience)
		defer cancel()
		yes, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+expression+")"))
		if err != nil {
			return false, err.Error()
		}
		if yes {
			return true, ""
		}
		text, _ := chromedp.Run(ctx, chromedp.Evaluate[string]("location.pathname + ' shows: ' + document.body?.innerText.slice(0, 2000)"))
		return false, text
	})
}

// text is what is shown of the first element that a CSS selector finds.
func (x *tab) text(selector string) string {
	x.t.Helper()
	return js[string](x, fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector))
}

// shows waits until the page shows a text.
func (x *tab) shows(text string) {
	x.t.Helper()
	x.until(fmt.Sprintf("document.readyState === 'complete' && document.body.innerText.includes(%q)", text))
}

// click clicks with the mouse on what a CSS selector finds.
func (x *tab) click(selector string) {
	x.t.Helper()
	x.do("click on "+selector, chromedp.Click(chromedp.CSS(selector)))
}

// follow clicks on what leads to another page, and returns when that is there.
func (x *tab) follow(selector string) {
	x.t.Helper()
	x.leave(func() { x.click(selector) })
}

// leave does what leads to another page, and returns when that is there.
func (x *tab) leave(do func()) {
	x.t.Helper()
	x.left++ // a page to which one goes back may still have the mark of before
	js[int](x, fmt.Sprintf("window.left = %d", x.left))
	do()
	x.until(fmt.Sprintf("window.left !== %d && document.readyState === 'complete'", x.left))
}

// fill types a text into a field.
func (x *tab) fill(selector, text string) {
	x.t.Helper()
	x.do("type into "+selector, chromedp.Clear(chromedp.CSS(selector)), chromedp.SendKeys(chromedp.CSS(selector), text))
}

// press types keys into what has the focus.
func (x *tab) press(keys string, options ...chromedp.KeyOption) {
	x.t.Helper()
	x.do("press a key", chromedp.KeyEvent(keys, options...))
}

// mark and same tell whether the page is still the same document, which was not loaded again.
func (x *tab) mark() { js[bool](x, "window.marked = true") }

func (x *tab) same() bool {
	x.t.Helper()
	return js[bool](x, "window.marked === true")
}

// call is a command of the debugger's protocol as a step.
func call[P, R any](command cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, command, params)
		return err
	})
}

// back goes back, as by the button of the browser.
func (x *tab) back() {
	x.t.Helper()
	js[bool](x, "history.back() || true")
}

// updated waits until the script has replaced a part of the overview. The hand of the wheel moves each second.
func (x *tab) updated() {
	x.t.Helper()
	js[bool](x, "document.querySelector('#wheel svg').old = true")
	x.until("!document.querySelector('#wheel svg').old")
}
