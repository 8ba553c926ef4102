package page

import (
	"embed"
	"html/template"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/job-publisher/reactor/internal/cli"
)

//go:embed templates
var templateFiles embed.FS

// templates returns all of them in one set, so that each can use the others. They are parsed when the first page is made.
var templates = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("").Funcs(functions).ParseFS(templateFiles, "templates/*.html"))
})

// functions are those that the templates call.
var functions = template.FuncMap{
	// visible is for texts of anybody: what does not print is shown, so that it cannot turn the text around it.
	"visible": cli.Visible,
	"short":   short,
	"iso":     func(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") },
	"utc":     func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
	"code":    code,
	"capital": capital,
}

// mostShort is how many characters of a text a list shows. A topic may have 65,535 bytes.
const mostShort = 200

// short is visible for a list: the page of what is listed has all of it.
func short(text string) string {
	n := 0
	for at := range text {
		if n++; n > mostShort {
			return cli.Visible(text[:at]) + "…"
		}
	}
	return cli.Visible(text)
}

// templateText is the text of all templates.
func templateText() string {
	var b strings.Builder
	entries, err := templateFiles.ReadDir("templates")
	if err != nil {
		panic(err) // they are in the program
	}
	for _, entry := range entries {
		text, err := templateFiles.ReadFile("templates/" + entry.Name())
		if err != nil {
			panic(err)
		}
		b.Write(text)
	}
	return b.String()
}

// code escapes a text of ours, which may have one of anybody in it, and marks what is between backquotes as something to be typed.
func code(text string) template.HTML {
	var b strings.Builder
	for i, part := range strings.Split(cli.Visible(text), "`") {
		if part = template.HTMLEscapeString(part); i%2 == 1 {
			part = "<code>" + part + "</code>"
		}
		b.WriteString(part)
	}
	return template.HTML(b.String())
}

// render executes a template.
func render(name string, data any) (template.HTML, error) {
	var b strings.Builder
	err := templates().ExecuteTemplate(&b, name, data)
	return template.HTML(b.String()), err
}

// view is a page: what stands around the Body, which a template of its own shows.
type view struct {
	Title string
	// Window is what the title of the window begins with; "": Title.
	Window string
	Caller caller
	// Live: the page has parts that are replaced by newer ones.
	Live bool
	// Refresh: the script can ask for the page again, and replace the part that is named fresh.
	Refresh bool
	Body    any

	// The rest is set by Page.write.
	Content               template.HTML
	Theme                 string
	Themes                []string
	Path                  string
	Instance, Version     string
	Build                 string
	ReadOnly, HasPassword bool
	Nav                   []link
	Note                  string // what became of the last action
}

// link is one of the navigation; Here: it leads to where we are.
type link struct {
	Path, Text string
	Here       bool
}

// navigation marks the page of a path, also for the pages below it.
func navigation(path string) []link {
	return []link{
		{"/", "Overview", path == "/"},
		{"/jobs", "Jobs", path == "/jobs" || strings.HasPrefix(path, "/jobs/")},
		{"/failed", "Failed", path == "/failed"},
		{"/schedules", "Schedules", path == "/schedules" || path == "/schedule"},
	}
}

// Who is the name of the caller; "": they have not logged in.
func (v view) Who() string { return v.Caller.name }

// OwnSession tells that they have logged in here, and can log out here.
func (v view) OwnSession() bool { return v.Caller.session != nil }

// write answers with a page.
func (p *Page) write(w http.ResponseWriter, r *http.Request, status int, body string, v view) {
	v.Theme, v.Themes, v.Build = theme(r), themes, build
	v.Path = "/"
	if r.Method == http.MethodGet {
		v.Path = safeNext(r.URL.RequestURI())
	}
	v.Nav = navigation(r.URL.Path)
	if v.Caller.mayLook() {
		v.Note = p.notes.get(r.URL.Query().Get("note"))
	}
	v.Instance, v.Version, v.ReadOnly, v.HasPassword = p.cfg.Name, p.cfg.Version, p.cfg.ReadOnly, p.password != nil
	if v.Window == "" {
		v.Window = v.Title
	}
	v.Content = p.part(body, v)
	html := p.part("layout", v)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write([]byte(html)) // it fails only if the client is gone
	}
}

// message is a page that says one thing.
type message struct{ Title, Text string }

// say answers with a message.
func (p *Page) say(w http.ResponseWriter, r *http.Request, c caller, status int, title, text string) {
	p.write(w, r, status, "message", view{Title: title, Caller: c, Body: message{title, text}})
}
