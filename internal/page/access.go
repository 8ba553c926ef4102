package page

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// caller is who has sent a request.
type caller struct {
	// name is who has logged in, here or at a proxy; "": nobody has.
	name string
	// from is the address that the request comes from.
	from netip.Addr
	// local: the request comes from this host and is for this host, and nobody else can send such a one.
	local bool
	// session is theirs; nil if they have none, as behind a proxy.
	session *session
}

// Local is for the templates.
func (c caller) Local() bool { return c.local }

// mayLook reports whether the caller may see the page.
func (c caller) mayLook() bool { return c.local || c.name != "" }

// identify finds out who has sent a request.
func (p *Page) identify(r *http.Request) caller {
	c := caller{from: addressOf(r.RemoteAddr)}
	if p.trusts(c.from) {
		c.name = userIn(r.Header.Values(p.cfg.UserHeader))
	}
	if c.name == "" {
		if c.session = p.sessions.find(p.cookie(r), p.password); c.session != nil {
			c.name = c.session.name
		}
	}
	// A proxy on this host makes everybody's requests come from this host. With one, nobody looks without a login.
	c.local = p.local && p.cfg.UserHeader == "" && c.from.IsLoopback() && namesLoopback(r.Host) && !passedOn(r.Header)
	return c
}

// trusts reports whether a proxy whose word counts has this address.
func (p *Page) trusts(from netip.Addr) bool {
	if p.cfg.UserHeader == "" {
		return false
	}
	for _, prefix := range p.cfg.TrustedProxies {
		if prefix.Contains(from) {
			return true
		}
	}
	return false
}

// mostName is how long the name of a user may be, in bytes.
const mostName = 100

// userIn is the user that a proxy names; "" if it names none, or several: a header that a client has sent could stand beside
// that of the proxy.
func userIn(values []string) string {
	if len(values) != 1 {
		return ""
	}
	return cleanName(values[0])
}

// cleanName is a name that can be shown and logged; "" if it is none.
func cleanName(name string) string {
	name = strings.TrimSpace(name)
	if len(name) > mostName || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return ""
	}
	return name
}

// addressOf is the address in http.Request.RemoteAddr; the zero one if there is none.
func addressOf(remote string) netip.Addr {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}

// namesLoopback reports whether a Host header names this host by an address or a name that no name server can give to another
// one. Without that, a page of somebody else could have its own name point at 127.0.0.1, and read our answers (DNS rebinding).
func namesLoopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// passedOn reports whether a proxy says that it passes a request on: by the name of a header alone, because a client may have sent an
// empty one in front of that of the proxy.
func passedOn(h http.Header) bool {
	for name := range h {
		switch name {
		case "Forwarded", "Via", "X-Real-Ip", "X-Client-Ip", "X-Original-Host", "X-Original-Url", "True-Client-Ip", "Cf-Connecting-Ip":
			return true
		}
		if strings.HasPrefix(name, "X-Forwarded-") {
			return true
		}
	}
	return false
}

// listensOnLoopback reports whether only this host reaches an address, and its port.
func listensOnLoopback(at net.Addr) (local bool, port string) {
	bound, err := netip.ParseAddrPort(at.String())
	if err != nil {
		return false, ""
	}
	_, port, _ = net.SplitHostPort(at.String())
	return bound.Addr().Unmap().IsLoopback(), port
}

// lookTimeout is how long a page may take that the database is asked for. The server's limits are for short answers.
const lookTimeout = 30 * time.Second

// look lets those in who may look, and sends the others to the login.
func (p *Page) look(show func(http.ResponseWriter, *http.Request, caller)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c := p.identify(r)
		switch {
		case c.mayLook():
			until := time.Now().Add(lookTimeout)
			control := http.NewResponseController(w)
			_, _ = control.SetReadDeadline(until), control.SetWriteDeadline(until) // an error shows when the answer is written
			ctx, cancel := context.WithDeadline(r.Context(), until.Add(-5*time.Second))
			defer cancel()
			show(w, r.WithContext(ctx), c)
		case p.password != nil:
			http.Redirect(w, r, "/login?next="+url.QueryEscape(r.URL.RequestURI()), http.StatusSeeOther)
		default:
			p.sayNoLogin(w, r, c)
		}
	}
}

// sayNoLogin tells somebody who may not look how a login is set up, or where none is needed.
func (p *Page) sayNoLogin(w http.ResponseWriter, r *http.Request, c caller) {
	const setUp = "Start the instance with --http-password-file FILE (REACTOR_HTTP_PASSWORD_FILE), a file that has a password of your choice; or behind a proxy that knows its users, with --http-user-header and --http-trusted-proxies."
	switch {
	case p.cfg.UserHeader != "" && p.trusts(c.from):
		p.say(w, r, c, http.StatusForbidden, "The proxy does not say who you are", "This request came by a trusted proxy, without a user in its header "+p.cfg.UserHeader+". Log in at the proxy, or have it set that header.")
	case p.cfg.UserHeader != "":
		p.say(w, r, c, http.StatusForbidden, "Come by the proxy", "This instance believes a proxy who its users are, and this request did not come from one of --http-trusted-proxies.")
	case p.local:
		p.say(w, r, c, http.StatusForbidden, "This page needs a login here", "Without one it is shown to this host only, at http://127.0.0.1:"+p.port+"/ or http://localhost:"+p.port+"/. To look from elsewhere: "+setUp)
	default:
		p.say(w, r, c, http.StatusForbidden, "This page needs a login, and none is set up", setUp+" Without a login, it is shown to the instance's own host only, if --http-addr is an address of it such as 127.0.0.1:9883.")
	}
}
