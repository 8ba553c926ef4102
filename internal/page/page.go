package page

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// Instance is what the page shows of the instance that serves it. *reactor.Reactor implements it.
type Instance interface {
	Stats() reactor.Stats
	Health() reactor.Health
	Ahead() reactor.Ahead
}

// Jobs is how the page uses the database. *pgsource.Jobs implements it.
type Jobs interface {
	Look(ctx context.Context, do func(*pgsource.JobsAdmin) error) error
	Change(ctx context.Context, do func(*pgsource.JobsAdmin) error) error
}

// Config says what is shown, and to whom.
type Config struct {
	// Instance is the one that serves, Name its name in reactor.instances, and Version that of its program.
	Instance      Instance
	Name, Version string
	// Jobs reads the database, and changes jobs there. The page does not close it.
	Jobs Jobs
	// Address is where the page is served.
	Address net.Addr
	// PasswordFile is a file that has the password and nothing else; "": nobody logs in by a password.
	PasswordFile string
	// UserHeader is the header in which a proxy at one of the TrustedProxies says who asks; "": none does.
	UserHeader     string
	TrustedProxies []netip.Prefix
	// ReadOnly: nothing can be changed, whoever has logged in.
	ReadOnly bool
	Logger   *slog.Logger
}

// Page serves the page. It implements http.Handler.
type Page struct {
	cfg      Config
	local    bool   // it listens on loopback only
	port     string // at which it listens
	password *password
	sessions sessions
	guesses  guesses
	notes    notes
	// questions wait for an answer.
	questions questions
	hub       *hub
	handler   http.Handler
	// streamLife is the constant, unless a test changes it.
	streamLife time.Duration
	drawing    sync.Mutex // when the hub begins again, its goroutine of before may still be drawing
	axes       axes       // guarded by drawing
}

// New returns a page whose hub is at rest. An error is about PasswordFile.
func New(cfg Config) (*Page, error) {
	p := &Page{cfg: cfg, sessions: sessions{now: time.Now}, guesses: guesses{now: time.Now}, streamLife: streamLife}
	p.local, p.port = listensOnLoopback(cfg.Address)
	if cfg.PasswordFile != "" {
		var err error
		if p.password, err = openPassword(cfg.PasswordFile, cfg.Logger); err != nil {
			return nil, err
		}
	}
	p.hub = newHub(p.readDatabase, p.renderOverview)
	p.handler = p.routes()
	return p, nil
}

// ServeHTTP implements http.Handler.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.handler.ServeHTTP(w, r) }

// Close ends the streams, and what is read for them. It returns when nothing is running any more.
func (p *Page) Close() { p.hub.close() }

// routes are the addresses of the page, each of which can be linked to.
func (p *Page) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.look(p.overview))
	mux.HandleFunc("GET /events", p.events)
	mux.HandleFunc("GET /jobs", p.look(p.showJobs))
	mux.HandleFunc("POST /jobs/act", p.act(p.actOnJobs))
	mux.HandleFunc("GET /jobs/{id}", p.look(p.showJob))
	mux.HandleFunc("GET /jobs/{id}/payload", p.look(p.sendPayload))
	mux.HandleFunc("POST /jobs/{id}/act", p.act(p.actOnJob))
	mux.HandleFunc("GET /failed", p.look(p.showFailed))
	mux.HandleFunc("GET /schedules", p.look(p.showSchedules))
	mux.HandleFunc("GET /schedule", p.look(p.showSchedule))
	mux.HandleFunc("POST /schedule/act", p.act(p.actOnSchedule))
	mux.HandleFunc("GET /assets/{name}", serveAsset)
	mux.HandleFunc("GET /login", p.showLogin)
	mux.HandleFunc("POST /login", p.login)
	mux.HandleFunc("GET /session", p.hasSession)
	mux.HandleFunc("POST /logout", p.logout)
	mux.HandleFunc("POST /theme", p.setTheme)
	mux.HandleFunc("GET /", p.look(func(w http.ResponseWriter, r *http.Request, c caller) {
		p.say(w, r, c, http.StatusNotFound, "There is nothing here", "No page has this address. It may have been mistyped, or be of another version.")
	}))
	return secured(mux)
}
