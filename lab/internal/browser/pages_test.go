package browser

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// What hostile texts want: an element, a script, and an end of what they stand in.
const (
	evil        = `'"></bdi></td></pre><x-evil></x-evil><img src=x onerror=alert(1)><script>alert(2)</script>`
	hostileName = `two <x-evil>`
	hostileJob  = 4711
)

// hostile inserts rows that want to be more than text: one that waits, one that has failed, and a schedule.
func (d *deployment) hostile(t *testing.T) {
	t.Helper()
	db := d.connect(t)
	execute(t, db, `INSERT INTO jobs (topic, payload, key, ordering_key, headers, content_type, response_topic, fire_at)
		VALUES ('hostile/' || $1::text, $1, 'key ' || $1, $1, jsonb_build_object($1::text, $1::text), $1, $1, now() + interval '1 hour')`, evil)
	execute(t, db, `WITH j AS (INSERT INTO jobs (id, topic, payload, key, fire_at, processed, processed_at, claim)
		VALUES ($2, 'hostile/failed/' || $1::text, $1, 'failed ' || $1, now() - interval '1 minute', true, now(), '72656163-746f-0000-0000-000000004711') RETURNING id, claim)
		INSERT INTO reactor.failed_jobs (job_id, claim, attempts, code, reason) SELECT id, claim, 5, 135, 'refused ' || $1::text FROM j`, evil, hostileJob)
	execute(t, db, `INSERT INTO reactor.schedules (name, every, topic, payload) VALUES ('hostile ' || $1::text, '1 hour', 'hostile/' || $1::text, $1)`, evil)
	execute(t, db, `INSERT INTO jobs (topic, fire_at, processed, processed_at, claim, schedule_id, occurrence_at)
		SELECT 'run', at, true, at, ('72656163-746f-0000-0000-' || lpad(n::text, 12, '0'))::uuid, s.id, at
		FROM reactor.schedules s, generate_series(1, 12) n, LATERAL (SELECT now() - n * interval '1 hour') AS past (at) WHERE s.name LIKE 'hostile %'`)
	execute(t, db, `INSERT INTO jobs (topic, fire_at) SELECT 'deep/' || n, now() + interval '2 hours' FROM generate_series(1, 60) n`)
}

// testAccess goes through all pages, with and without a login. On each, axe finds no serious fault, nothing is wider than
// the screen, and hostile texts are shown, as texts.
func (d *deployment) testAccess(t *testing.T, browser context.Context, s screen) {
	source := axe(t)
	x := newTab(t, browser, s)
	x.accept(func(text string) bool {
		return strings.Contains(text, "404") && strings.Contains(text, "/nothing") || strings.Contains(text, "403") && strings.Contains(text, "/login")
	})
	inspect := func(page string, shown bool) {
		t.Helper()
		if x.until("document.readyState === 'complete'"); shown {
			x.shows("<x-evil>")
		}
		if found := js[string](x, `[...document.querySelectorAll('x-evil, img, script:not([src="/assets/page.js"])')].map(e => e.outerHTML).join()`); found != "" {
			t.Errorf("%s has elements that are not ours: %s", page, found)
		}
		if wide := js[string](x, fmt.Sprintf(`document.documentElement.scrollWidth <= %[1]d ? '' : [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > %[1]d).map(e => e.outerHTML.slice(0, 100)).join('\n')`, s.width)); wide != "" {
			t.Errorf("%s is wider than the screen:\n%s", page, wide)
		}
		for _, fault := range x.axe(source) {
			t.Errorf("%s: %s", page, fault)
		}
	}
	show := func(path string, shown bool) {
		t.Helper()
		x.open(d.one.url + path)
		inspect(path, shown)
	}
	show("/", true)
	x.updated()
	inspect("/, live", true)
	show("/nothing", false)
	show("/login", false)
	x.fill("#password", "open sesame")
	x.follow("form.login button")
	inspect("a wrong password", false)
	d.login(x, d.one, "/")
	show("/jobs?topic=hostile/", true)
	show("/jobs?topic=deep/&from=yesterday", false)
	show(fmt.Sprintf("/jobs/%d", hostileJob), true)
	show("/failed", true)
	if right := js[float64](x, `Math.max(...[...document.querySelectorAll('#fresh form button')].map(e => e.getBoundingClientRect().right))`); right <= 0 || right > float64(s.width) {
		t.Errorf("the buttons of a group reach to %g of %d: out of view", right, s.width)
	}
	show("/schedules", true)
	x.follow(`main a[href^="/schedule?name=hostile"]`)
	inspect("a schedule", true)
	show("/jobs?topic=deep/&state=waiting", false)
	x.follow(`form.all button[name=action][value=cancel]`)
	inspect("a question", false)
}
