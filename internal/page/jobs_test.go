package page

import (
	"bytes"
	"context"
	"fmt"
	"html"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/job-publisher/reactor/pgsource"
)

// follow sends a form of somebody who has logged in, and returns the page to which the answer leads.
func (s served) follow(t *testing.T, cookie, path string, form url.Values) string {
	t.Helper()
	answer := s.send(path, form, cookie)
	if answer.Code != http.StatusSeeOther {
		t.Fatalf("%s with %v: %d\n%s", path, form, answer.Code, answer.Body)
	}
	return s.show(t, answer.Header().Get("Location"))
}

// send sends a form.
func (s served) send(path string, form url.Values, cookie string) *httptest.ResponseRecorder {
	return ask(s.Page, http.MethodPost, path, "127.0.0.1", "localhost", form, "Cookie", cookie)
}

// question sends a form for several jobs, and returns the form that answers yes.
func (s served) question(t *testing.T, cookie string, form url.Values, text string) (yes url.Values) {
	t.Helper()
	page := s.send("/jobs/act", form, cookie).Body.String()
	name := regexp.MustCompile(`name="question" value="([^"]+)"`).FindStringSubmatch(page)
	if name == nil || !strings.Contains(page, text) {
		t.Fatalf("the question is not %q:\n%s", text, page)
	}
	return url.Values{"question": {name[1]}}
}

// linkIn is the address of a link of a page that leads to the next one or to the one before; "": there is none.
func linkIn(text, rel string) string {
	if link := regexp.MustCompile(`<a href="([^"]*)" rel="` + rel + `">`).FindStringSubmatch(text); link != nil {
		return html.UnescapeString(link[1])
	}
	return ""
}

// show returns a page.
func (s served) show(t *testing.T, path string) string {
	t.Helper()
	answer := ask(s.Page, http.MethodGet, path, "127.0.0.1", "localhost", nil)
	if answer.Code != http.StatusOK {
		t.Fatalf("%s: %d\n%s", path, answer.Code, answer.Body)
	}
	return answer.Body.String()
}

// TestJobsPages: jobs are found, and are changed by those only who have logged in: as many as were asked about.
func TestJobsPages(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var log bytes.Buffer
	s := serve(t, ctx, func(cfg *Config) {
		withPassword(t, cfg)
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	exec := func(sql string) {
		t.Helper()
		if _, err := s.db.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	count := func(where string) (n int) {
		t.Helper()
		if err := s.db.QueryRow(ctx, "SELECT count(*) FROM jobs WHERE "+where).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	exec(`INSERT INTO jobs (id, topic, payload, key, fire_at) OVERRIDING SYSTEM VALUE
	      SELECT n, CASE WHEN n % 2 = 0 THEN 'even/' ELSE 'odd/' END || n, '<script>alert(' || n || ')</script>', 'key-' || n, now() + interval '1 hour' + n * interval '1 second' FROM generate_series(1001, 1120) n`)
	exec(`WITH j AS (INSERT INTO jobs (id, topic, fire_at, processed, processed_at, claim) OVERRIDING SYSTEM VALUE
	      SELECT n, 'bad/' || n, now() - interval '1 minute', true, now(), ('72656163-746f-0000-0000-00000000' || n)::uuid FROM generate_series(2001, 2006) n RETURNING id, claim)
	      INSERT INTO reactor.failed_jobs (job_id, claim, attempts, code, reason) SELECT id, claim, 5, 151, CASE WHEN id < 2005 THEN 'quota <b>exceeded</b>' ELSE 'not authorized' END FROM j`)

	// Keyset paging: each job once, in order, over three pages; and back through the same ones.
	seen, path := []string{}, "/jobs?state=waiting"
	newer, firstIDs := "", []string{}
	row := regexp.MustCompile(`<a href="/jobs/(\d+)">`)
	for pages := 1; path != ""; pages++ {
		text := s.show(t, path)
		firstIDs = append(firstIDs, row.FindStringSubmatch(text)[1])
		for _, found := range row.FindAllStringSubmatch(text, -1) {
			seen = append(seen, found[1])
		}
		path, newer = "", linkIn(text, "prev")
		path = linkIn(text, "next")
		if pages > 3 {
			t.Fatalf("there is no end: %s", path)
		}
	}
	if len(seen) != 120 || seen[0] != "1001" || seen[119] != "1120" {
		t.Errorf("%d jobs: %v", len(seen), seen)
	}
	for at := len(firstIDs) - 2; at >= 0; at-- {
		text := s.show(t, newer)
		if first := row.FindStringSubmatch(text)[1]; first != firstIDs[at] {
			t.Errorf("%s begins with %s, want %s", newer, first, firstIDs[at])
		}
		newer = linkIn(text, "prev")
	}
	if newer != "" {
		t.Errorf("there is a page before the first: %s", newer)
	}
	for path, want := range map[string]string{
		"/jobs?key=key-1007":                      ">1007<",
		"/jobs?topic=odd/&from=%2B1h&until=%2B2h": "odd/1101",
		"/jobs?topic=none":                        "No job matches",
		"/jobs?from=yesterday":                    "is no time",
		"/jobs?after=nonsense":                    "is no place in a list",
		"/jobs?state=waiting&topic=odd/":          `<bdi>topic begins with odd/</bdi> <a href="/jobs?state=waiting"`,
		"/jobs":                                   "Not published <b>6</b>",
		"/jobs?state=fired&schedule=none":         "no such schedule",
		"/jobs/1007":                              "&lt;script&gt;alert(1007)",
		"/jobs/2001":                              "Claimed",
		"/failed":                                 "quota &lt;b&gt;exceeded",
		"/failed?by=topic":                        ">bad/…<",
		"/failed?by=topic&topic=bad/":             "/failed?topic=bad%2F2001",
		"/failed?topic=bad/2001":                  "topic=bad%2F2001",
		"/failed?topic=good/":                     "Of these, every job",
		"/schedules":                              "There is no schedule",
	} {
		if text := s.show(t, path); !strings.Contains(text, want) || strings.Contains(text, "<script>alert") || strings.Contains(text, "<b>exceeded") {
			t.Errorf("%s lacks %q:\n%s", path, want, text)
		}
	}
	for path, code := range map[string]int{"/jobs/77": 404, "/jobs/x": 404, "/jobs/77/payload": 404, "/jobs/x/payload": 404, "/schedule?name=none": 404, "/jobs?id=1007": 303} {
		if got := ask(s.Page, http.MethodGet, path, "127.0.0.1", "localhost", nil).Code; got != code {
			t.Errorf("%s: %d, want %d", path, got, code)
		}
	}

	// A payload is a file that no browser shows.
	file := ask(s.Page, http.MethodGet, "/jobs/1007/payload", "127.0.0.1", "localhost", nil)
	if h := file.Header(); file.Body.String() != "<script>alert(1007)</script>" || h.Get("Content-Type") != "application/octet-stream" || h.Get("Content-Disposition") != `attachment; filename="job-1007.bin"` || h.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("the payload is %q, with %v", file.Body, h)
	}

	// Who has not logged in changes nothing, also not on this host.
	fire := url.Values{"action": {"fire"}}
	for _, path := range []string{"/jobs/1007/act", "/jobs/act", "/schedule/act"} {
		if answer := s.send(path, fire, ""); answer.Code != 303 || !strings.HasPrefix(answer.Header().Get("Location"), "/login") {
			t.Errorf("%s without a login: %d, %v", path, answer.Code, answer.Header())
		}
	}
	_, cookie, _ := login(t, s.Page, secret, "127.0.0.1")
	if answer := ask(s.Page, http.MethodPost, "/jobs/1007/act", "127.0.0.1", "localhost", fire, "Cookie", cookie, "Sec-Fetch-Site", "cross-site"); answer.Code != 403 {
		t.Errorf("from another site: %d", answer.Code)
	}
	if n := count("fire_at <= now() AND NOT processed"); n != 0 {
		t.Errorf("%d jobs were changed without a login", n)
	}

	// One job.
	if text := s.follow(t, cookie, "/jobs/1007/act", fire); !strings.Contains(text, "Job 1007: due now.") || count("id = 1007 AND fire_at <= now()") != 1 {
		t.Error(text)
	}
	if text := s.follow(t, cookie, "/jobs/1008/act", url.Values{"action": {"reschedule"}, "at": {"2030-01-31T08:00"}}); !strings.Contains(text, "rescheduled") || count("id = 1008 AND fire_at = '2030-01-31 08:00Z'") != 1 {
		t.Error(text)
	}
	for _, at := range []string{"", "soon"} {
		if answer := s.send("/jobs/1008/act", url.Values{"action": {"reschedule"}, "at": {at}}, cookie); answer.Code != 400 || !strings.Contains(answer.Body.String(), "say when") {
			t.Errorf("reschedule to %q: %d", at, answer.Code)
		}
	}
	if text := s.follow(t, cookie, "/jobs/1009/act", url.Values{"action": {"cancel"}}); !strings.Contains(text, "Job 1009: cancelled.") || count("id = 1009") != 0 {
		t.Error(text)
	}

	// Those that are ticked: the others stay, and so do those that the action is not for.
	some := url.Values{"ticked": {"1"}, "state": {"waiting"}, "job": {"1021", "1023", "2001"}, "action": {"cancel"}}
	if text := s.follow(t, cookie, "/jobs/act", s.question(t, cookie, some, "Cancel 2 jobs?")); !strings.Contains(text, "2 cancelled") || count("id IN (1021, 1023)") != 0 || count("topic LIKE 'odd/%'") != 57 || count("id = 2001") != 1 {
		t.Error(text)
	}
	for _, wrong := range []url.Values{{"ticked": {"1"}, "action": {"cancel"}}, {"ticked": {"1"}, "job": {"1025 OR true"}, "action": {"cancel"}}} {
		if answer := s.send("/jobs/act", wrong, cookie); answer.Code != 400 || !strings.Contains(answer.Body.String(), "Nothing was changed") {
			t.Errorf("%v: %d\n%s", wrong, answer.Code, answer.Body)
		}
	}
	// What cannot be undone is asked about also on the page of a job.
	if text := s.send("/jobs/act", url.Values{"ticked": {"1"}, "job": {"1025"}, "action": {"cancel"}}, cookie).Body.String(); !strings.Contains(text, "Cancel job 1025?") || !strings.Contains(text, `href="/jobs/1025"`) {
		t.Error(text)
	}

	// Many: the question says how many, and no more are changed, though more match by then.
	form := url.Values{"topic": {"even/"}, "action": {"cancel"}}
	yes := s.question(t, cookie, form, "Cancel 60 jobs?")
	if count("topic LIKE 'even/%'") != 60 {
		t.Error("jobs were cancelled before the answer")
	}
	// Of those that were meant two are gone by then, and two others are next.
	exec("DELETE FROM jobs WHERE id IN (1010, 1012)")
	exec("INSERT INTO jobs (topic, fire_at) SELECT 'even/more', now() + interval '10 minutes' FROM generate_series(1, 2)")
	if text := s.follow(t, cookie, "/jobs/act", yes); !strings.Contains(text, "58 cancelled") || !strings.Contains(text, "2 not found") || count("topic LIKE 'even/%'") != 2 {
		t.Error(text)
	}
	if answer := s.send("/jobs/act", yes, cookie); answer.Code != http.StatusConflict {
		t.Errorf("the same answer again: %d", answer.Code)
	}

	// A group of those that have failed.
	form = url.Values{"state": {"failed"}, "code": {"151"}, "reason": {"quota <b>exceeded</b>"}, "action": {"retry"}, "back": {"/failed"}}
	if text := s.follow(t, cookie, "/jobs/act", s.question(t, cookie, form, "Retry 4 jobs?")); !strings.Contains(text, "4 to be tried again") || strings.Contains(text, "quota") || !strings.Contains(text, "not authorized") {
		t.Error(text)
	}

	form = url.Values{"state": {"failed"}, "code": {"151"}, "reason": {"not authorized"}, "topic": {"bad/"}, "action": {"purge"}, "back": {"/failed"}}
	if text := s.follow(t, cookie, "/jobs/act", s.question(t, cookie, form, "Purge 2 jobs?")); !strings.Contains(text, "2 "+pgsource.PurgeJobs().Done) || !strings.Contains(text, "every job that has ended was published") || count("topic LIKE 'bad/%' AND processed") != 0 {
		t.Error(text)
	}

	// A schedule.
	exec("INSERT INTO reactor.schedules (name, every, topic, payload) VALUES ('a/b <i>', '1 hour', 'tick', repeat('ü', 5000))")
	name := url.Values{"name": {"a/b <i>"}}
	for _, step := range []struct{ action, want, state string }{{"pause", "It is paused", "paused"}, {"resume", "It goes on", "active"}, {"run", "is due now", "active"}} {
		form := url.Values{"name": name["name"], "action": {step.action}}
		if text := s.follow(t, cookie, "/schedule/act", form); !strings.Contains(text, step.want) || !strings.Contains(text, "a/b &lt;i&gt;") || !strings.Contains(text, ">"+step.state+"<") {
			t.Errorf("%s: %s", step.action, text)
		}
	}
	if text := s.show(t, "/schedule?"+name.Encode()); strings.Count(text, "ü") != pgsource.PreviewBytes {
		t.Errorf("%d characters of the payload are shown", strings.Count(text, "ü"))
	}
	if text := s.show(t, "/jobs?schedule=a%2Fb+%3Ci%3E"); strings.Count(text, `scope="row"`) != 1 || !strings.Contains(text, "schedule a/b &lt;i&gt;") { // the one that was run
		t.Error(text)
	}
	if text := s.show(t, "/schedules"); !strings.Contains(html.UnescapeString(text), "/schedule?"+name.Encode()) {
		t.Error(text)
	}
	for _, want := range []string{"who=anna from=127.0.0.1 action=cancel what=\"topic=even%2F\" asked=60 done=58", "action=reschedule what=2030-01-31T08:00 asked=1 done=1", "action=run schedule="} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, log.String())
		}
	}

	// Read-only: nobody changes anything.
	s.cfg.ReadOnly = true
	if answer := s.send("/jobs/1011/act", fire, cookie); answer.Code != 403 || !strings.Contains(answer.Body.String(), "read-only") {
		t.Errorf("read-only: %d", answer.Code)
	}
	if text := s.show(t, "/jobs/1011"); strings.Contains(text, "<button>Fire now") {
		t.Error(text)
	}
}

// TestNotes: what became of an action is shown by a name that nobody can guess, and no link can put words into the page.
func TestNotes(t *testing.T) {
	t.Parallel()
	var n notes
	name := n.add("one")
	if n.get(name) != "one" || n.get("one") != "" || n.get("") != "" {
		t.Error("the note is not known by its name only")
	}
	for i := range 5 * mostNotes {
		n.add(fmt.Sprint(i))
	}
	if len(n.of) > mostNotes {
		t.Errorf("%d notes are kept", len(n.of))
	}
}

// TestPayload is shown as what it is.
func TestPayload(t *testing.T) {
	t.Parallel()
	cut := []byte("caf\xc3") // in the middle of a character
	for name, test := range map[string]struct {
		payload            []byte
		size               int64
		kind, pretty, text string
	}{
		"JSON":             {[]byte(`{"b":[1,12345678901234567890],"a":"<i>\u202e"}`), 0, "JSON", "{\n  \"b\": [\n    1,\n    12345678901234567890\n  ],\n  \"a\": \"<i>\\u202e\"\n}", `{"b":[1,12345678901234567890],"a":"<i>\u202e"}`},
		"not quite":        {[]byte(`{"b":`), 0, "text", "", `{"b":`},
		"a number":         {[]byte("12"), 0, "text", "", "12"},
		"hidden":           {[]byte("a\u202eb\nc"), 0, "text", "", "a\\u202eb\nc"},
		"binary":           {[]byte{0xff, 0, 1}, 0, "binary", "", ""},
		"cut off":          {cut, 5, "text", "", "caf\uFFFD"},
		"wrong at the end": {cut, 4, "binary", "", ""},
		"JSON, cut off":    {[]byte(`[1]`), 9, "text", "", "[1]"},
		"empty":            {nil, 0, "text", "", ""},
	} {
		size := max(test.size, int64(len(test.payload)))
		v := payloadViewOf(test.payload, size)
		if v.Kind != test.kind || v.Pretty != test.pretty || v.Text != test.text || (v.Note != "") != (size > int64(len(test.payload))) || (v.Hex == "") != (size == 0) {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

// TestTrail: who goes back comes through the same pages, however many they were.
func TestTrail(t *testing.T) {
	t.Parallel()
	q := url.Values{"topic": {"a,b"}, "note": {"x"}}
	for n := range mostTrail + 5 {
		u, err := url.Parse(older(q, fmt.Sprintf("id%d", n)))
		if err != nil {
			t.Fatal(err)
		}
		q = u.Query()
	}
	for n := mostTrail + 3; n > 3; n-- {
		u, err := url.Parse(newer(q))
		if err != nil || u.Query().Get("after") != fmt.Sprintf("id%d", n) || u.Query().Get("topic") != "a,b" || u.Query().Has("note") {
			t.Fatalf("before page %d comes %v, %v", n+1, u, err)
		}
		q = u.Query()
	}
	// What came before is forgotten: it is the first page.
	if got := newer(q); got != "/jobs?topic=a%2Cb" || newer(url.Values{"topic": {"a"}}) != "" {
		t.Errorf("back from the last that is known: %s", got)
	}
}
