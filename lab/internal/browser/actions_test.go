package browser

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// action finds the button of an action, whether it carries the action itself or its form does.
func action(name string) string {
	return fmt.Sprintf("main form:has(input[name=action][value=%[1]s]) button, main button[name=action][value=%[1]s]", name)
}

// testRetry: somebody logs in, finds a job that has failed, and tries it again; its message arrives once.
func (d *deployment) testRetry(t *testing.T, browser context.Context) {
	db := d.connect(t)
	id := d.expired(t, db, "retry/", 1)[0]
	x := newTab(t, browser, screen{})
	x.accept(func(text string) bool { return strings.Contains(text, "403") && strings.Contains(text, "/login") }) // the wrong password
	x.open(d.one.url + "/")
	x.follow(`header a[href^="/login"]`)
	x.fill("#password", "open sesame")
	x.follow("form.login button")
	x.shows("This is not the password")
	x.fill("#password", password)
	x.follow("form.login button")
	x.follow(`nav a[href="/failed"]`)
	x.follow(`main td a[href*="state=expired"]`)
	x.follow(fmt.Sprintf(`main a[href="/jobs/%d"]`, id))
	x.shows("expired")
	x.follow(action("retry"))
	x.shows("to be tried again")
	d.arriveOnce(t, id)
	x.open(fmt.Sprintf("%s/jobs/%d", d.one.url, id))
	x.shows("fired")
	x.follow(`form[action="/logout"] button`)
	x.until(`document.querySelector('header a[href^="/login"]')`)
}

// testMany: an action on those that are ticked, or on all that match, asks first, with their number; who says no has
// changed nothing.
func (d *deployment) testMany(t *testing.T, browser context.Context) {
	db := d.connect(t)
	ids := d.expired(t, db, "many/", 6)
	failed := func(want int) {
		t.Helper()
		if n := scan[int](t, db, "SELECT count(*) FROM reactor.failed_jobs WHERE job_id = ANY ($1)", ids); n != want {
			t.Errorf("%d jobs have failed, want %d", n, want)
		}
	}
	x := newTab(t, browser, screen{})
	d.login(x, d.one, "/jobs")
	ask := func(form, question string) {
		t.Helper()
		x.follow(form + ` button[name=action][value=retry]`)
		if title := x.text("h1"); title != question {
			t.Fatalf("the question is %q, want %q", title, question)
		}
	}
	x.fill("form.search [name=topic]", "many/")
	x.click("form.search [name=state][value=expired]")
	x.follow("form.search button")
	ask("form.all", "Retry 6 jobs?")
	x.follow("main form.actions > a")
	failed(6)
	for _, id := range ids[:2] {
		x.click(fmt.Sprintf("form.ticked [name=job][value='%d']", id))
	}
	ask("form.ticked", "Retry 2 jobs?")
	x.follow("main button.primary")
	x.shows("2 to be tried again")
	d.arriveOnce(t, ids[:2]...)
	failed(4)
	ask("form.all", "Retry 4 jobs?")
	x.follow("main button.primary")
	x.shows("4 to be tried again")
	d.arriveOnce(t, ids...)
	failed(0)
}

// testSchedule: a schedule is paused, goes on, and runs now, by clicks.
func (d *deployment) testSchedule(t *testing.T, browser context.Context) {
	db := d.connect(t)
	execute(t, db, "INSERT INTO reactor.schedules (name, cron, zone, topic) VALUES ('nightly report', '30 2 * * MON-FRI', 'Europe/Berlin', 'report')")
	paused := func() bool {
		return scan[bool](t, db, "SELECT paused FROM reactor.schedules WHERE name = 'nightly report'")
	}
	x := newTab(t, browser, screen{})
	d.login(x, d.one, "/schedules")
	x.follow(`main a[href="/schedule?name=nightly+report"]`)
	x.follow(action("pause"))
	if x.shows("It is paused"); !paused() || !strings.Contains(x.text("h1"), "paused") {
		t.Errorf("paused is %v in the database, and the page says %q", paused(), x.text("h1"))
	}
	x.follow(action("resume"))
	if x.shows("It goes on"); paused() {
		t.Error("it is still paused")
	}
	x.follow(action("run"))
	said := regexp.MustCompile(`Job (\d+) is due now`).FindStringSubmatch(x.text("main [role=status]"))
	if said == nil {
		t.Fatalf("the page says %q", x.text("main"))
	}
	id, err := strconv.ParseInt(said[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	d.arriveOnce(t, id)
}
