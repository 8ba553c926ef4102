#!/usr/bin/env bash
# Installs what building, testing and the demo need and this machine lacks: the Go
# toolchain is checked, PostgreSQL 15 or newer, mosquitto and gcc (for the race
# detector) are installed from Debian's packages. Run by `make demo` and `make test`.
# Servers are only installed: ours are started on ports and folders of their own.
set -euo pipefail

say() { printf 'setup: %s\n' "$*"; }
have() { command -v "$1" >/dev/null 2>&1; }

# have_postgres: are server binaries of PostgreSQL 15 or newer here?
have_postgres() {
  local bin version
  for bin in "$(command -v postgres || :)" /usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres \
    /opt/homebrew/opt/postgresql@*/bin/postgres /usr/local/opt/postgresql@*/bin/postgres; do
    [ -x "$bin" ] || continue
    version=$("$bin" --version | sed -E 's/[^0-9]*([0-9]+).*/\1/')
    [ "$version" -ge 15 ] && return 0
  done
  return 1
}

have_mosquitto() { have mosquitto || [ -x /usr/sbin/mosquitto ] || [ -x /usr/local/sbin/mosquitto ] || [ -x /opt/homebrew/sbin/mosquitto ]; }

# have_go: is Go here, and as new as go.mod asks? (A newer toolchain than the one
# that is installed is fetched by Go itself, unless that is switched off.)
have_go() { have go && go list -m >/dev/null 2>&1; }

missing=()
have_postgres || missing+=(postgresql)
have_mosquitto || missing+=(mosquitto)
have gcc || have cc || missing+=(gcc libc6-dev)
have git || missing+=(git)
[ -e /etc/ssl/certs/ca-certificates.crt ] || [ -e /etc/ssl/cert.pem ] || missing+=(ca-certificates)

if [ ${#missing[@]} -gt 0 ]; then
  if ! have apt-get; then
    say "this system lacks: ${missing[*]}"
    say "macOS:  brew install go postgresql@16 mosquitto"
    say "Fedora: dnf install golang postgresql-server mosquitto gcc git"
    exit 1
  fi
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    have sudo || { say "installing ${missing[*]} needs root: run as root, or install sudo"; exit 1; }
    as_root=(sudo)
  fi
  say "installing Debian packages: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
  have_postgres || { say "the packages of this Debian have no PostgreSQL 15 or newer: see https://www.postgresql.org/download/linux/debian/"; exit 1; }
fi

if ! have_go; then
  if have go; then
    go list -m || : # says which version is asked for
  fi
  say "Go is missing or older than go.mod asks: install it from https://go.dev/dl/ and put it on the PATH"
  exit 1
fi
say "everything is here: $(go version | cut -d' ' -f3), PostgreSQL, mosquitto"
