#!/usr/bin/env bash
# Installs, starts, upgrades, kills and removes the Debian package under a real systemd, with PostgreSQL and
# Mosquitto of the distribution, in a container. Needs an engine (Docker) that lets a container have
# SYS_ADMIN; two minutes, most of them for Debian's packages.
#   scripts/package-test.sh
#   BUILD_FLAGS='--network host' scripts/package-test.sh    further flags of docker build
set -euo pipefail
cd "$(dirname "$0")/.."
fail() {
  printf 'package-test: %s\n' "$*" >&2
  docker exec "$name" journalctl -u reactor -n 30 --no-pager >&2 || :
  exit 1
}
work=$(mktemp -d) name=reactor-package-test-$$
# shellcheck disable=SC2329 # the trap calls it
clean() {
  docker rm -f "$name" >/dev/null 2>&1 || :
  rm -rf "$work"
}
trap clean EXIT
arch=$(dpkg --print-architecture)
in_it() { docker exec "$name" "$@"; }
sql() { in_it su postgres -c "psql -qXAt -c \"$1\" app"; }
property() { in_it systemctl show -P "$1" reactor; }
# await SECONDS COMMAND... repeats a command until it succeeds.
await() {
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || fail "in vain: $*"
    sleep 0.2
  done
}

for version in v0.0.1 v0.0.2; do
  scripts/build.sh "$work/reactor" $version
  scripts/deb.sh "$work/reactor" "$arch" $version "$work" >/dev/null
done
cat >"$work/Dockerfile" <<'DOCKERFILE'
FROM debian:12
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    systemd systemd-sysv dbus postgresql mosquitto mosquitto-clients ca-certificates && rm -f /usr/sbin/policy-rc.d
COPY *.deb /packages/
CMD ["/lib/systemd/systemd"]
DOCKERFILE
# shellcheck disable=SC2086 # flags
docker build ${BUILD_FLAGS:-} -t reactor-package-test "$work" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
# What systemd needs to mount and to make groups of processes; less than --privileged.
docker run -d --cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined --cgroupns host --name "$name" --tmpfs /run --tmpfs /run/lock -v /sys/fs/cgroup:/sys/fs/cgroup:rw reactor-package-test >/dev/null
await 60 in_it su postgres -c pg_isready
await 60 in_it systemctl is-active mosquitto
in_it su postgres -c "psql -qXc \"CREATE ROLE app LOGIN PASSWORD 'secret'\" -c 'CREATE DATABASE app OWNER app'"

echo "package-test: install"
in_it dpkg -i "/packages/reactor_0.0.1_$arch.deb" >/dev/null
[ "$(property ActiveState)" = inactive ] || fail "an installation without settings has started something"
in_it systemd-analyze verify reactor.service || fail "the unit has a mistake"
in_it sh -c 'printf "REACTOR_DATABASE_URL=postgres://app:secret@localhost/app\nREACTOR_MQTT_URL=mqtt://localhost\n" >>/etc/reactor/reactor.env'

echo "package-test: start"
in_it systemctl enable -q --now reactor || fail "systemctl start failed"
[ "$(property StatusText)" = publishing ] || fail "started, and the status is $(property StatusText)"
docker exec "$name" mosquitto_sub -t deb -C 1 -W 30 >"$work/message" &
listener=$!
sql "INSERT INTO jobs (topic, payload, fire_at) VALUES ('deb', 'fired', clock_timestamp() + interval '2 seconds')"
wait $listener
[ "$(cat "$work/message")" = fired ] || fail "the job was not published"
[ "$(in_it stat -c %u "/proc/$(property MainPID)")" != 0 ] || fail "it runs as root"
in_it sh -c "! tr '\\0' '\\n' </proc/$(property MainPID)/cmdline | grep -q secret" || fail "a password is in the list of processes"
level=$(in_it systemd-analyze security --no-pager reactor.service | awk '/Overall exposure/ { print $(NF-2) }')
awk -v l="$level" 'BEGIN { exit !(l <= 1.5) }' || fail "systemd-analyze security says $level"

echo "package-test: killed, it is back"
before=$(property MainPID)
in_it sh -c "kill -9 $before"
await 30 in_it sh -c "[ \$(systemctl show -P MainPID reactor) -gt 1 ] && [ \$(systemctl show -P MainPID reactor) != $before ] && systemctl is-active reactor"

echo "package-test: frozen, the watchdog notices"
before=$(property MainPID)
in_it sh -c "kill -STOP $before"
await 90 in_it sh -c "[ \$(systemctl show -P MainPID reactor) -gt 1 ] && [ \$(systemctl show -P MainPID reactor) != $before ] && systemctl is-active reactor"

echo "package-test: upgrade"
before=$(property MainPID)
in_it dpkg -i "/packages/reactor_0.0.2_$arch.deb" >/dev/null
await 30 in_it systemctl is-active reactor
[[ $(in_it reactor version) == *v0.0.2* ]] || fail "the old program is still there"
[ "$(property MainPID)" != "$before" ] || fail "the old program still runs"
[ "$(property StatusText)" = publishing ] || fail "upgraded, and the status is $(property StatusText)"

echo "package-test: remove"
in_it dpkg --purge reactor >/dev/null 2>&1
in_it sh -c '! systemctl is-active reactor && ! test -e /etc/reactor && ! test -e /usr/bin/reactor' >/dev/null || fail "something is left behind"
echo "package-test: all is well; systemd-analyze security: $level"
