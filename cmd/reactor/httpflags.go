package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
)

// httpFlags say where an instance serves health, metrics and the page.
type httpFlags struct {
	HTTPAddr string `name:"http-addr" group:"Monitoring" placeholder:"HOST:PORT" help:"Where an instance serves the page, /healthz, /readyz and /metrics: 127.0.0.1:9883 if not given, so that only this host can ask; off: nowhere."`
}

const (
	// usualHTTPAddr is where an instance serves if nothing else is said. Only its own host reaches it.
	usualHTTPAddr = "127.0.0.1:9883"
	// noHTTP is the value of --http-addr for an instance that serves nothing.
	noHTTP = "off"
)

// endpoint is where an instance serves.
type endpoint struct {
	net.Listener
	// instead says why that is not the usual address, or is "".
	instead string
}

// listen returns where to serve, or nil for nowhere.
//
// Several instances on one host need no flags: the first has the usual address, the others take a
// free port. An address that was given is kept to, because somebody asks there.
func (f httpFlags) listen() (*endpoint, error) {
	switch f.HTTPAddr {
	case noHTTP:
		return nil, nil
	case "":
	default:
		listener, err := net.Listen("tcp", f.HTTPAddr)
		if err != nil {
			return nil, fmt.Errorf("cannot serve HTTP on %s: %w: choose another --http-addr", f.HTTPAddr, err)
		}
		return &endpoint{Listener: listener}, nil
	}
	listener, err := net.Listen("tcp", usualHTTPAddr)
	if err == nil {
		return &endpoint{Listener: listener}, nil
	}
	why := fmt.Sprintf("%s is taken, probably by another instance (%v): give each an --http-addr", usualHTTPAddr, errors.Unwrap(err))
	if listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, fmt.Errorf("cannot serve HTTP on this host: %w: give an --http-addr, or off", err)
	}
	return &endpoint{listener, why}, nil
}

// url returns the address of a path at an instance with these flags on this host.
func (f httpFlags) url(path string) (string, error) {
	address := f.HTTPAddr
	switch address {
	case noHTTP:
		return "", errors.New("--http-addr is off, so the instance serves no health: give it an address")
	case "":
		address = usualHTTPAddr
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("--http-addr is %q: give HOST:PORT, for example %s", address, usualHTTPAddr)
	}
	// An instance that serves on all addresses serves on this one as well.
	if ip := net.ParseIP(strings.Trim(host, "[]")); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip != nil && ip.To4() == nil {
			host = "::1"
		}
	}
	return "http://" + net.JoinHostPort(host, port) + path, nil
}
