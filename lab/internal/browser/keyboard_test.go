package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// testKeyboard: without a mouse everything is reached, in order, and it shows where one is; the focus stays where it is
// when a part is replaced.
func (d *deployment) testKeyboard(t *testing.T, browser context.Context) {
	db := d.connect(t)
	id := d.expired(t, db, "keys/", 1)[0]
	x := newTab(t, browser, screen{})
	d.login(x, d.one, "/jobs?topic=keys/")

	x.press(kb.Tab)
	if !js[bool](x, "document.activeElement.matches('a.skip') && document.activeElement.getBoundingClientRect().left >= 0") {
		t.Error("the first key does not show the link to the content")
	}
	x.press(kb.Enter)
	x.until("document.activeElement.id === 'main'")

	for _, path := range []string{"/jobs?topic=keys/", fmt.Sprintf("/jobs/%d", id)} {
		x.open(d.one.url + path)
		n := js[int](x, `(window.stops = [...document.querySelectorAll('a[href], button, summary, input:not([type=hidden]), select, [tabindex="0"]')].filter(e => e.checkVisibility())).length`)
		for i := range n {
			x.press(kb.Tab)
			if got := js[string](x, fmt.Sprintf(`(() => {
				const e = document.activeElement, style = getComputedStyle(e);
				if (e !== window.stops[%d]) return 'leads to ' + e.outerHTML.slice(0, 100) + ' instead of ' + window.stops[%[1]d].outerHTML.slice(0, 100);
				if (style.outlineStyle === 'none' || parseFloat(style.outlineWidth) < 2) return 'does not show that it is at ' + e.outerHTML.slice(0, 100);
				return '';
			})()`, i)); got != "" {
				t.Fatalf("%s: key %d %s", path, i+1, got)
			}
		}
		if n < 10 {
			t.Errorf("%s has %d places only", path, n)
		}
	}

	// The last page is that of the job: its button is pressed by keys.
	x.open(fmt.Sprintf("%s/jobs/%d", d.one.url, id))
	for i := 0; !js[bool](x, fmt.Sprintf("document.activeElement.matches(%q)", action("retry"))); i++ {
		if x.press(kb.Tab); i > 50 {
			t.Fatal("no key leads to the button")
		}
	}
	x.leave(func() { x.press(kb.Enter) })
	x.shows("to be tried again")
	d.arriveOnce(t, id)

	x.open(d.one.url + "/")
	x.until("document.querySelector('#numbers a')")
	link := js[string](x, "(() => { const e = document.querySelector('#numbers a'); e.focus(); e.old = true; return e.href; })()")
	execute(t, db, "INSERT INTO jobs (topic, fire_at) SELECT 'focus', now() FROM generate_series(1, 20)") // changes a number
	x.until("!document.querySelector('#numbers a').old")
	if got := js[string](x, "document.activeElement.href ?? document.activeElement.outerHTML"); got != link {
		t.Errorf("after an update the focus is at %s, before it was at %s", got, link)
	}
}

// testSpeech: a screen reader finds its way, everything has a name, and nothing is said again and again.
func (d *deployment) testSpeech(t *testing.T, browser context.Context) {
	x := newTab(t, browser, screen{})
	d.login(x, d.one, "/")
	for path, places := range map[string][]string{
		"/":          {"banner", "navigation Pages", "main", "contentinfo", "region Verdict", "region Instances", "region Lanes"},
		"/jobs":      {"banner", "navigation Pages", "main", "contentinfo", "search", "region Jobs"},
		"/schedules": {"banner", "navigation Pages", "main", "contentinfo"},
	} {
		x.open(d.one.url + path)
		found, headings := map[string]int{}, 0
		for _, n := range x.accessible() {
			switch n.role {
			case "banner", "navigation", "main", "contentinfo", "search", "region":
				found[n.role]++
				found[n.role+" "+n.name]++
			case "link", "button", "textbox", "searchbox", "checkbox", "image", "img", "graphics-document":
				if n.name == "" {
					t.Errorf("%s: a %s has no name", path, n.role)
				}
			case "heading":
				if n.level == 1 {
					headings++
				}
			}
		}
		for _, place := range places {
			if found[place] != 1 {
				t.Errorf("%s has %d %q, want one: %v", path, found[place], place, found)
			}
		}
		if headings != 1 {
			t.Errorf("%s has %d headings of the first level", path, headings)
		}
	}

	x.open(d.one.url + "/")
	js[bool](x, `(() => {
		window.said = [];
		window.ages = 0;
		new MutationObserver(all => all.forEach(m => {
			const e = (m.target.nodeType === 1 ? m.target : m.target.parentElement);
			const live = e?.closest('[role=status], [role=alert], [aria-live]');
			if (live) window.said.push(live.textContent);
			if (e?.id === 'age') window.ages++;
		})).observe(document.body, {subtree: true, childList: true, characterData: true});
		return true;
	})()`)
	x.until("window.ages >= 4") // each second
	said := js[[]string](x, "window.said")
	for i, text := range said {
		if i > 0 && text == said[i-1] {
			t.Errorf("a screen reader reads again: %q", said)
		}
	}
	if len(said) > 3 { // the verdict may have changed, because of the other tests
		t.Errorf("in four seconds a screen reader reads: %q", said)
	}
}

// accessibleNode is a node of the tree that screen readers get.
type accessibleNode struct {
	role, name string
	level      int // of a heading
}

// accessible returns what screen readers get of the page.
func (x *tab) accessible() (list []accessibleNode) {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(x.ctx, patience)
	defer cancel()
	tree, err := chromedp.Run(ctx, func(ctx context.Context, target *chromedp.Target) (accessibility.GetFullAXTreeResult, error) {
		return cdp.Call(ctx, target, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
	})
	if err != nil {
		x.t.Fatal(err)
	}
	for _, n := range tree.Nodes {
		if n.Ignored {
			continue
		}
		node := accessibleNode{role: plain(n.Role), name: plain(n.Name)}
		for _, p := range n.Properties {
			if p.Name == accessibility.PropertyNameLevel {
				_, _ = fmt.Sscan(plain(p.Value), &node.level) // it is a number
			}
		}
		list = append(list, node)
	}
	return list
}

// plain is a value of the tree as a text.
func plain(v *accessibility.Value) string {
	var value any
	if v == nil || json.Unmarshal(v.Value, &value) != nil || value == nil {
		return ""
	}
	return fmt.Sprint(value)
}
