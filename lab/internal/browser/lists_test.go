package browser

import (
	"context"
	"fmt"
	"testing"
)

// box finds what ticks a job.
func box(id int64) string { return fmt.Sprintf("[name=job][value='%d']", id) }

// testTicks: jobs are ticked one by one, from one to another with Shift, and all on the page; the question has their number, and the
// others stay as they are.
func (d *deployment) testTicks(t *testing.T, browser context.Context) {
	db := d.connect(t)
	ids := d.expired(t, db, "ticks/", 5) // the newest are shown first
	x := newTab(t, browser, screen{})
	d.login(x, d.one, "/jobs?topic=ticks/")
	ticked := func(want string) {
		t.Helper()
		if got := x.text("#ticked"); got != want {
			t.Errorf("%q are ticked, want %q", got, want)
		}
	}
	x.click(box(ids[4]))
	ticked("(1)")
	x.click("#all")
	ticked("(5)")
	x.click("#all")
	ticked("(0)")
	x.click(box(ids[3]))
	js[bool](x, fmt.Sprintf("document.querySelector(%q).dispatchEvent(new MouseEvent('click', { bubbles: true, cancelable: true, shiftKey: true }))", box(ids[1])))
	ticked("(3)")
	x.follow("form.ticked [name=action][value=retry]")
	if title := x.text("h1"); title != "Retry 3 jobs?" {
		t.Fatalf("the question is %q", title)
	}
	x.follow("main button.primary")
	x.shows("3 to be tried again")
	d.arriveOnce(t, ids[1:4]...)
	if n := scan[int](t, db, "SELECT count(*) FROM reactor.failed_jobs WHERE job_id = ANY ($1)", ids); n != 2 {
		t.Errorf("%d jobs have still failed, want 2", n)
	}
}

// testLists: a list that somebody wants live shows what has come, but not while something is ticked; and it stays so on the next page. The
// overview stays as it is while it is paused.
func (d *deployment) testLists(t *testing.T, browser context.Context) {
	db := d.connect(t)
	add := func() (id int64) {
		return scan[int64](t, db, "INSERT INTO jobs (topic, payload, fire_at) VALUES ('lists/x', '[1,{}]', now() + interval '3 hours') RETURNING id")
	}
	shown := func(id int64) string { return fmt.Sprintf("document.querySelector('main a[href=\"/jobs/%d\"]')", id) }
	first := add()
	x := newTab(t, browser, screen{})
	d.login(x, d.one, "/jobs?topic=lists/")
	x.mark()
	js[string](x, "document.body.dataset.refresh = '0.3'") // the test does not wait for five seconds
	x.click("#pause")
	second := add()
	x.until(shown(second))
	x.click(box(first))
	third := add()
	x.until("document.querySelector('#age').textContent.startsWith('waits')")
	if js[bool](x, shown(third)+" !== null") {
		t.Error("the list has changed under what is ticked")
	}
	x.click(box(first))
	x.until(shown(third))
	if !x.same() {
		t.Error("the page was loaded anew")
	}
	x.follow(fmt.Sprintf(`main a[href="/jobs/%d"]`, first))
	x.until("document.querySelector('#pause').textContent === 'Pause'")
	x.shows("JSON, 6 bytes")
	x.click("summary")
	x.until("document.querySelector('details').open")
	execute(t, db, "DELETE FROM jobs WHERE id = ANY ($1)", []int64{first, second, third})

	x.open(d.one.url + "/")
	x.until("document.querySelector('#age').textContent.startsWith('live')")
	x.click("#pause")
	x.until("document.querySelector('#age').textContent.startsWith('paused')")
	x.click("#pause")
	x.until("document.querySelector('#age').textContent.startsWith('live')")
}
