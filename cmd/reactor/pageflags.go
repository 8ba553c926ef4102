package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/job-publisher/reactor/internal/page"
	"github.com/job-publisher/reactor/pgsource"
	"github.com/job-publisher/reactor/reactor"
)

// pageFlags say whether an instance serves the page, and to whom.
type pageFlags struct {
	HTTPPage           pageMode `name:"http-page" default:"on" group:"Monitoring" help:"The page of the deployment at / of --http-addr: on, read-only (nothing can be changed there, even by those who have logged in) or off."`
	HTTPPasswordFile   string   `name:"http-password-file" type:"path" group:"Monitoring" placeholder:"FILE" help:"File that contains the password of the page, of 8 characters at least, and nothing else. Without a login the page is shown to this host only, if --http-addr is loopback, and changes nothing. It is read again when it changes, which ends all sessions."`
	HTTPUserHeader     string   `name:"http-user-header" group:"Monitoring" placeholder:"NAME" help:"Header in which a proxy says who has logged in, e.g. X-Forwarded-User. It counts only from --http-trusted-proxies."`
	HTTPTrustedProxies string   `name:"http-trusted-proxies" group:"Monitoring" placeholder:"ADDRESSES" help:"Addresses of the proxies of --http-user-header, with commas between them, e.g. 10.0.0.7 or 10.1.0.0/16. Whoever can send from there can be any user."`
}

// pageMode is what the page lets people do.
type pageMode string

const (
	pageOn       pageMode = "on"
	pageReadOnly pageMode = "read-only"
	pageOff      pageMode = "off"
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *pageMode) UnmarshalText(text []byte) error {
	switch mode := pageMode(strings.TrimSpace(string(text))); mode {
	case pageOn, pageReadOnly, pageOff:
		*m = mode
		return nil
	}
	return fmt.Errorf("there is no such page as %q: use on, read-only or off", text)
}

// proxies reads the settings of the proxies.
func (f pageFlags) proxies() (list []netip.Prefix, err error) {
	if (f.HTTPUserHeader == "") != (f.HTTPTrustedProxies == "") {
		return nil, errors.New("--http-user-header and --http-trusted-proxies belong together: give both, or neither")
	}
	for text := range strings.SplitSeq(f.HTTPTrustedProxies, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			address, err := netip.ParseAddr(text)
			if err != nil {
				return nil, fmt.Errorf("--http-trusted-proxies has %q, which is no address: give addresses such as 10.0.0.7, or networks such as 10.1.0.0/16", text)
			}
			prefix = netip.PrefixFrom(address.Unmap(), address.Unmap().BitLen())
		}
		list = append(list, prefix)
	}
	if f.HTTPUserHeader != "" && (!headerName(f.HTTPUserHeader) || len(list) == 0) {
		return nil, fmt.Errorf("--http-user-header is %q, must be the name of a header, such as X-Forwarded-User, and --http-trusted-proxies has to have an address", f.HTTPUserHeader)
	}
	return list, nil
}

// headerName reports whether a text can be the name of a header that a proxy sets: a token (RFC 9110, 5.1).
func headerName(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool {
		return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
}

// viewing is how long a connection of the page is kept that nobody uses.
const viewing = 5 * time.Second

// newPage returns the page, and what closes its connections; nil: it is off. Its errors are about flags.
func (c *runCommand) newPage(at *endpoint, r *reactor.Reactor, source *pgsource.Source, log *slog.Logger) (view *page.Page, end func(), err error) {
	proxies, err := c.proxies()
	if err != nil || c.HTTPPage == pageOff || at == nil {
		return nil, nil, err
	}
	jobs, err := pgsource.OpenJobs(c.connString(), pgsource.OpenJobsConfig{Names: c.names(), ReadOnly: c.HTTPPage == pageReadOnly, Application: "reactor page", IdleTime: viewing})
	if err != nil {
		return nil, nil, err
	}
	view, err = page.New(page.Config{
		Instance: r, Name: source.Name(), Version: versionName(), Address: at.Addr(), Logger: log, Jobs: jobs,
		PasswordFile: c.HTTPPasswordFile, UserHeader: http.CanonicalHeaderKey(c.HTTPUserHeader), TrustedProxies: proxies, ReadOnly: c.HTTPPage == pageReadOnly,
	})
	return view, jobs.Close, err
}
