#!/usr/bin/env bash
# Installs what this machine lacks, and says what and why. On Debian and Ubuntu, as
# root or with sudo: PostgreSQL 15 or newer, mosquitto, and for the tests PgBouncer, ip
# (networks of their own), Prometheus (alerts), Chromium (the page) and gcc (the race detector).
# When nothing is missing it changes nothing and takes no time.
#   scripts/setup.sh        what the tests need
#   scripts/setup.sh demo   what the demo needs, which can do without installed servers
# The servers are only installed: tests and demo start their own, on private ports and
# in temporary folders.
set -euo pipefail
cd "$(dirname "$0")/.."
purpose=${1:-test}
want_go=$(awk '$1 == "go" { print $2 }' go.mod)

say() { printf 'setup: %s\n' "$*"; }
have() { command -v "$1" >/dev/null 2>&1; }

# have_postgres looks where internal/stack looks.
have_postgres() {
  local bin version
  for bin in "$(command -v postgres || :)" /usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres \
    /opt/homebrew/opt/postgresql@*/bin/postgres /usr/local/opt/postgresql@*/bin/postgres \
    /usr/local/pgsql/bin/postgres /usr/libexec/postgresql*/postgres; do
    [ -x "$bin" ] || continue
    version=$("$bin" --version | sed -E 's/[^0-9]*([0-9]+).*/\1/') || continue
    if [ "${version:-0}" -ge 15 ]; then return 0; fi
  done
  return 1
}

have_mosquitto() {
  local bin
  for bin in "$(command -v mosquitto || :)" /usr/sbin/mosquitto /usr/local/sbin/mosquitto \
    /opt/homebrew/sbin/mosquitto /opt/homebrew/opt/mosquitto/sbin/mosquitto /usr/local/opt/mosquitto/sbin/mosquitto; do
    if [ -x "$bin" ]; then return 0; fi
  done
  return 1
}

# A tool of root's may lie outside of our own PATH.
have_pgbouncer() { have pgbouncer || [ -x /usr/sbin/pgbouncer ]; }
have_ip() { have ip || [ -x /usr/sbin/ip ] || [ -x /sbin/ip ] || [ "$(uname -s)" != Linux ]; }

# have_browser looks where lab/internal/browser looks.
have_browser() {
  local name
  for name in chromium chromium-browser google-chrome google-chrome-stable \
    "/Applications/Chromium.app/Contents/MacOS/Chromium" "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"; do
    if have "$name"; then return 0; fi
  done
  return 1
}

# have_c: a compiler alone is not enough, Debian packs the headers separately.
have_c() {
  local cc=${CC:-gcc}
  have "$cc" || cc=cc
  have "$cc" || return 1
  printf '#include <stdlib.h>\nint main(void) { return 0; }\n' | "$cc" -x c -fsyntax-only - 2>/dev/null
}

# have_go: here, and as new as go.mod asks. An older one, from 1.21 on, fetches the
# toolchain it needs by itself, unless that is switched off.
have_go() { have go && go list -m >/dev/null; }

missing=()
# need PACKAGES REASON
need() {
  say "missing: $1 ($2)"
  missing+=("$1")
}
have_postgres || need postgresql "the database, version 15 or newer"
have_mosquitto || need mosquitto "the MQTT broker"
[ "$purpose" = demo ] || have_pgbouncer || need pgbouncer "the pooler between tests and database"
[ "$purpose" = demo ] || have_ip || need iproute2 "networks of tests whose packets vanish"
[ "$purpose" = demo ] || { have prometheus && have promtool; } || need prometheus "to check the rules of alerts, and to fire one"
[ "$purpose" = demo ] || have npm || need npm "to fetch a newer PostgreSQL than this system has, and axe-core"
[ "$purpose" = demo ] || have_browser || need "chromium fonts-dejavu-core" "the browser that shows the page, and a font for it"
[ "$purpose" = demo ] || have_c || need "gcc libc6-dev" "for Go's race detector"
if have apt-get; then
  [ -e /etc/ssl/certs/ca-certificates.crt ] || need ca-certificates "to download Go modules"
fi

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Debian starts a server as soon as its package is installed, and at every boot: here
# that would be four that nobody asked for, two on the ports docker-compose.yml publishes.
# policy-rc.d is Debian's switch for this. Ours is about these alone, and goes
# when this script does; one that is there already stays as it is.
policy=/usr/sbin/policy-rc.d
forbid_service_starts() {
  if [ -e "$policy" ]; then return; fi
  trap 'as_root rm -f "$policy"' EXIT
  as_root tee "$policy" >/dev/null <<'POLICY'
#!/bin/sh
# Left behind by the setup of reactor, if you read this: delete it.
case "$1" in mosquitto* | postgresql* | pgbouncer* | prometheus*) exit 101 ;; esac
exit 0
POLICY
  as_root chmod 755 "$policy"
}

install_packages() {
  local packages package log
  read -ra packages <<<"$*"
  log=$(mktemp)
  forbid_service_starts
  if ! as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends "${packages[@]}" >"$log" 2>&1 </dev/null; then
    cat "$log"
    say "apt-get failed, see above (the whole log: $log)"
    exit 1
  fi
  rm -f "$log"
  if [ -d /run/systemd/system ]; then
    for package in "${packages[@]}"; do
      case $package in mosquitto | postgresql | pgbouncer | prometheus) as_root systemctl disable -q "$package.service" || : ;; esac
    done
  fi
}

# candidate prints the upstream version that apt would install, without Debian's additions.
candidate() { apt-cache policy "$1" | awk '/Candidate:/ && $2 != "(none)" { sub(/^[0-9]+:/, "", $2); sub(/[-+~].*/, "", $2); print $2 }'; }

if [ ${#missing[@]} -gt 0 ] || ! have go; then
  have go || say "missing: Go $want_go or newer"
  if have apt-get; then
    if [ "$(id -u)" -ne 0 ] && ! have sudo; then
      say "installing packages needs root: run this as root, or install sudo"
      exit 1
    fi
    say "updating the package lists"
    as_root apt-get update -qq </dev/null || say "that failed; going on with the lists that are here"
    if ! have_postgres && dpkg --compare-versions "$(candidate postgresql)" lt 15; then
      say "this release has no PostgreSQL 15: add https://wiki.postgresql.org/wiki/Apt and run this again"
      exit 1
    fi
    if [ "$purpose" != demo ] && ! have_browser && [ -z "$(candidate chromium)" ]; then
      say "this release has Chromium as a snap only: install Google Chrome from https://www.google.com/chrome/ and run this again"
      exit 1
    fi
    if ! have go && dpkg --compare-versions "$(candidate golang-go)" ge "${want_go%.*}"; then
      missing+=(golang-go)
    fi
    if [ ${#missing[@]} -gt 0 ]; then
      say "installing ${missing[*]}, without starting any service"
      install_packages "${missing[@]}"
    fi
  elif [ ${#missing[@]} -gt 0 ]; then
    say "this script installs on Debian and Ubuntu only. Elsewhere:"
    say "  macOS:  brew install go postgresql@16 mosquitto pgbouncer prometheus node && brew install --cask chromium"
    say "  Fedora: dnf install golang postgresql-server mosquitto pgbouncer golang-github-prometheus iproute gcc npm chromium"
    say "  Alpine: apk add go postgresql16 mosquitto pgbouncer prometheus iproute2 gcc musl-dev npm chromium font-dejavu"
    [ "$purpose" = demo ] || exit 1
    say "the demo goes on without: it downloads a PostgreSQL and brings a small broker"
  fi
fi

if ! have_go; then
  say "Go $want_go or newer is needed. Take it from https://go.dev/dl/, on Linux for example:"
  case $(uname -m) in aarch64 | arm64) arch=arm64 ;; *) arch=amd64 ;; esac
  say "  curl -fsSL https://go.dev/dl/go$want_go.linux-$arch.tar.gz | sudo tar -C /usr/local -xz"
  say "  export PATH=\$PATH:/usr/local/go/bin"
  exit 1
fi
say "ready, with $(go version | cut -d' ' -f3)"
