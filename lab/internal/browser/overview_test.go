package browser

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// testNumbers: what the overview says is what the database says, and what somebody else has counted; and it says so
// without being loaded again.
func (d *deployment) testNumbers(t *testing.T, browser context.Context) {
	db := d.connect(t)
	x := newTab(t, browser, screen{})
	x.open(d.one.url + "/")
	x.mark()

	// Published.
	execute(t, db, "INSERT INTO jobs (topic, payload, fire_at) SELECT 'now/' || n, 'x', now() FROM generate_series(1, 400) n")
	eventually(t, "400 messages have arrived", func() (bool, string) {
		n := d.messages()
		return n >= 400, fmt.Sprint(n)
	})
	if n := scan[int](t, db, "SELECT count(*) FROM jobs WHERE processed"); n != 400 {
		t.Errorf("in the database %d jobs are published, want 400", n)
	}
	eventually(t, "the instances have published 400", func() (bool, string) {
		sum, rows := 0, x.table("#instances", "Published")
		for _, text := range rows {
			sum += digits(text)
		}
		return sum == 400 && len(rows) == 2, fmt.Sprint(rows)
	})
	x.until(`parseFloat(` + number("Published") + `) > 0`)
	x.until(`/^\d/.test(` + number("Late, p99") + `)`)
	if n := d.messages(); n != 400 {
		t.Errorf("%d messages have arrived, want 400", n)
	}

	// Due: rows that somebody has locked cannot be claimed.
	locker, err := d.connect(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	execute(t, db, "INSERT INTO jobs (topic, fire_at) SELECT 'locked/' || n, now() + interval '1 second' FROM generate_series(1, 7) n")
	if _, err := locker.Exec(t.Context(), "SELECT FROM jobs WHERE topic LIKE 'locked/%' FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	x.until(number("Due now") + " === '7'")
	if n := scan[int](t, db, "SELECT count(*) FROM jobs WHERE NOT processed AND fire_at <= now()"); n != 7 {
		t.Errorf("in the database %d jobs are due, want 7", n)
	}
	if err := locker.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.until(number("Due now") + " === '0'")

	// To come. Those of the next minute are counted each second, the others every few seconds.
	execute(t, db, "INSERT INTO jobs (topic, fire_at) SELECT 'later/' || n, now() + CASE n % 3 WHEN 0 THEN interval '55 seconds' WHEN 1 THEN interval '50 minutes' ELSE interval '12 hours' END FROM generate_series(1, 90) n")
	x.until(number("Next minute") + " === '30'")
	for i, want := range []int{30, 60, 90} {
		within := []string{"1 minute", "1 hour", "1 day"}[i]
		if n := scan[int](t, db, "SELECT count(*) FROM jobs WHERE NOT processed AND fire_at < now() + $1::text::interval", within); n != want {
			t.Errorf("in the database %d jobs fall due within %s, want %d", n, within, want)
		}
		x.until(fmt.Sprintf("document.querySelectorAll('#future figcaption :is(b, a)')[%d].innerText === '%d jobs'", i, want))
	}

	// Instances and shards.
	names := x.table("#instances", "Instance")
	shards := x.table("#instances", "Shards")
	for i, name := range names {
		name = strings.TrimSpace(strings.TrimSuffix(name, "this one"))
		name = strings.TrimLeft(name, "AB \n")
		if n := scan[int](t, db, "SELECT count(*) FROM reactor.shards s JOIN reactor.instances i ON i.id = s.owner WHERE i.name = $1", name); n == 0 || n != digits(shards[i]) {
			t.Errorf("%s has %s shards, in the database %d", name, shards[i], n)
		}
	}
	if n := js[int](x, "[...document.querySelectorAll('#shards svg title')].filter(e => /^shard \\d/i.test(e.textContent)).length"); n != 64 {
		t.Errorf("the strip shows %d shards", n)
	}
	if !x.same() {
		t.Error("the page was loaded again")
	}
	execute(t, db, "DELETE FROM jobs WHERE topic LIKE 'later/%'")
}

// number is the expression for the number with a label.
func number(label string) string {
	return fmt.Sprintf("[...document.querySelectorAll('#numbers dt')].find(e => e.innerText === %q)?.parentElement.querySelector('.value').innerText", label)
}

// table returns a column of the table in a part, by its heading.
func (x *tab) table(part, heading string) []string {
	x.t.Helper()
	return js[[]string](x, fmt.Sprintf(`(() => {
		const table = document.querySelector(%q + ' table');
		const column = [...table.tHead.rows[0].cells].findIndex(e => e.innerText === %q);
		return [...table.tBodies[0].rows].map(e => e.cells[column].innerText);
	})()`, part, heading))
}

// digits reads a number that has separators; −1: there is none.
func digits(text string) int {
	n, err := strconv.Atoi(strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, text))
	if err != nil {
		return -1
	}
	return n
}

// testZones: times are in the zone of who looks, and in UTC for a mouse or a screen reader, also after an update.
func (d *deployment) testZones(t *testing.T, browser context.Context) {
	zone, err := time.LoadLocation("Asia/Kathmandu")
	if err != nil {
		t.Fatal(err)
	}
	x := newTab(t, browser, screen{zone: zone.String()})
	x.open(d.one.url + "/")
	x.updated()
	for _, at := range js[[][3]string](x, "[...document.querySelectorAll('time')].map(e => [e.dateTime, e.innerText, e.title])") {
		when, err := time.Parse(time.RFC3339, at[0])
		if err != nil {
			t.Fatal(err)
		}
		if want := when.In(zone).Format("15:04:05"); !strings.Contains(at[1], want) {
			t.Errorf("%s is shown as %q, want %s", at[0], at[1], want)
		}
		if want := when.UTC().Format("2006-01-02 15:04:05 UTC"); at[2] != want {
			t.Errorf("the hint at %s is %q, want %q", at[0], at[2], want)
		}
	}
}

// testKill: when the instance is gone, the page says so; when it is back, the page goes on by itself. The same
// addresses lead to the same pages before and after.
func (d *deployment) testKill(t *testing.T, browser context.Context) {
	x := newTab(t, browser, screen{})
	x.accept(func(text string) bool { return strings.Contains(text, "net::ERR_") })
	x.open(d.two.url + "/jobs?state=waiting&topic=deep%2F&from=%2B1h")
	if got := js[string](x, "[document.querySelector('[name=topic]').value, document.querySelector('[name=from]').value, document.querySelector('[name=state]:checked').value].join()"); got != "deep/,+1h,waiting" {
		t.Errorf("the form of a link has %q", got)
	}
	x.follow(`nav a[href="/failed"]`)
	x.follow(`nav a[href="/"]`)
	x.mark()
	x.until("document.getElementById('age').innerText.startsWith('live')")
	d.two.process.Kill(t)
	x.until("document.body.classList.contains('stale') && document.getElementById('age').innerText.includes('stale')")
	x.until("document.getElementById('gone').textContent.includes('no updates')")
	d.two.restart(t)
	x.until("!document.body.classList.contains('stale') && document.getElementById('age').innerText.startsWith('live') && !document.getElementById('gone').textContent")
	if !x.same() {
		t.Error("the page was loaded again")
	}
	for _, want := range []string{"/failed", "/jobs"} {
		x.leave(func() { x.back() })
		if at := js[string](x, "location.pathname"); at != want {
			t.Errorf("back leads to %s, want %s", at, want)
		}
	}
	if at := js[string](x, "document.querySelector('[name=topic]').value"); at != "deep/" {
		t.Errorf("after going back the form has %q", at)
	}
}
