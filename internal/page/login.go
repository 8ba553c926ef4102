package page

import (
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strings"
)

// mostForm is how many bytes a form may have.
const mostForm = 64 << 10

// loginForm is what the login shows.
type loginForm struct {
	Next    string
	Name    string
	Problem string
}

func (p *Page) showLogin(w http.ResponseWriter, r *http.Request) {
	c := p.identify(r)
	next := safeNext(r.URL.Query().Get("next")) // FormValue would read a body, of any size, of anybody
	switch {
	case c.name != "":
		http.Redirect(w, r, next, http.StatusSeeOther)
	case p.password == nil:
		p.sayNoLogin(w, r, c)
	default:
		p.write(w, r, http.StatusOK, "login", view{Title: "Log in", Caller: c, Body: loginForm{Next: next}})
	}
}

// hasSession tells the script of the login whether there is a session already. A browser that follows a link from another site
// does not send its cookie (SameSite=Strict), so that somebody who has logged in is asked to do it again.
func (p *Page) hasSession(w http.ResponseWriter, r *http.Request) {
	if p.identify(r).name != "" {
		w.WriteHeader(http.StatusNoContent)
	} // otherwise 200: a browser would report an error
}

func (p *Page) login(w http.ResponseWriter, r *http.Request) {
	c := p.identify(r)
	r.Body = http.MaxBytesReader(w, r.Body, mostForm)
	if err := r.ParseForm(); err != nil {
		p.say(w, r, c, http.StatusBadRequest, "This form cannot be read", "Go back, and try again.")
		return
	}
	if p.password == nil {
		p.sayNoLogin(w, r, c)
		return
	}
	form := loginForm{Next: safeNext(r.PostForm.Get("next")), Name: r.PostForm.Get("name")}
	refuse := func(code int, problem string) {
		form.Problem = problem
		p.write(w, r, code, "login", view{Title: "Log in", Caller: c, Body: form})
	}
	name := cleanName(form.Name)
	if form.Name == "" {
		name = "operator"
	} else if name == "" {
		form.Name = ""
		refuse(http.StatusBadRequest, fmt.Sprintf("That is no name for a log: give up to %d bytes that print, or none.", mostName))
		return
	}
	if wait := p.guesses.begin(c.from); wait > 0 {
		seconds := fmt.Sprint(int(math.Ceil(wait.Seconds())))
		w.Header().Set("Retry-After", seconds)
		refuse(http.StatusTooManyRequests, "Too many wrong passwords came from your address. Try again in "+seconds+" s.")
		return
	}
	if p.password.is(name) { // it was typed into the wrong field, and must not get into the log
		form.Name, name = "", "operator"
	}
	if !p.password.is(r.PostForm.Get("password")) {
		p.cfg.Logger.Warn("a wrong password was given on the page", "from", c.from.String(), "name", name)
		refuse(http.StatusForbidden, "This is not the password.")
		return
	}
	p.guesses.right(c.from)
	p.sessions.end(p.cookie(r)) // nobody could log out of it any more
	p.setCookie(w, r, p.sessions.open(name, p.password))
	p.cfg.Logger.Info("somebody has logged in on the page", "who", name, "from", c.from.String())
	http.Redirect(w, r, form.Next, http.StatusSeeOther)
}

func (p *Page) logout(w http.ResponseWriter, r *http.Request) {
	if c := p.identify(r); c.session != nil {
		p.cfg.Logger.Info("somebody has logged out on the page", "who", c.name, "from", c.from.String())
	}
	p.sessions.end(p.cookie(r))
	p.setCookie(w, r, "")
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// safeNext is where to go after a form: an address of this page, whatever somebody has put into a link.
func safeNext(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") || strings.ContainsAny(next, "\\\r\n\t") || u.Path == "/login" {
		return "/"
	}
	return u.RequestURI()
}

// themes are what a viewer can choose; auto is what the system is set to.
var themes = []string{"auto", "light", "dark"}

// themeCookie keeps the choice. It is for the whole host: who wants it dark wants it dark at each instance.
const themeCookie = "reactor-theme"

func theme(r *http.Request) string {
	if c, err := r.Cookie(themeCookie); err == nil {
		for _, t := range themes {
			if t == c.Value {
				return t
			}
		}
	}
	return themes[0]
}

// setTheme keeps the choice of a theme. It changes nothing here, so it needs no login.
func (p *Page) setTheme(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, mostForm)
	chosen := r.FormValue("theme")
	for _, t := range themes {
		if t == chosen {
			http.SetCookie(w, &http.Cookie{Name: themeCookie, Value: t, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, MaxAge: 400 * 24 * 3600})
		}
	}
	http.Redirect(w, r, safeNext(r.FormValue("next")), http.StatusSeeOther)
}
