#!/usr/bin/env bash
# Installs the Debian package on this system, without starting anything, and purges it again: what is in it, that
# it says its version, that an upgrade keeps the settings, and that nothing is left behind. Root, a few seconds. Refuses where reactor is installed.
# What needs a running systemd is in scripts/package-test.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { printf 'deb-test: %s\n' "$*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "installing a package needs root"
for taken in /usr/bin/reactor /etc/reactor /lib/systemd/system/reactor.service; do
  [ ! -e $taken ] || fail "$taken exists: this is for systems without reactor"
done

work=$(mktemp -d)
# shellcheck disable=SC2329 # the trap calls it
clean() {
  dpkg --purge reactor >/dev/null 2>&1 || :
  rm -rf "$work"
}
trap clean EXIT
arch=$(dpkg --print-architecture)

# build VERSION prints the path of a package of this version.
build() {
  scripts/build.sh "$work/reactor" "$1"
  scripts/deb.sh "$work/reactor" "$arch" "$1" "$work"
}

old=$(build v0.0.1)
cp "$old" "$work/first"
cmp "$work/first" "$(scripts/deb.sh "$work/reactor" "$arch" v0.0.1 "$work")" || fail "two packages of one program differ"
document=$(sed -n 's,^Documentation=file://,,p' deploy/systemd/reactor.service)
dpkg-deb -c "$old" | grep " \.$document\$" >/dev/null || fail "the unit names $document, which is not in the package"
new=$(build v0.0.1-5-gabcdef)
dpkg --compare-versions "$(dpkg-deb -f "$old" Version)" lt "$(dpkg-deb -f "$new" Version)" || fail "a later version is not later"

# The dependencies do not matter here.
install() { dpkg --force-depends -i "$1" >"$work/log" 2>&1 || { cat "$work/log"; fail "dpkg -i failed"; }; }
install "$old"
[[ $(reactor version) == *v0.0.1* ]] || fail "the program says $(reactor version)"
[ "$(stat -c '%a %U' /etc/reactor/reactor.env)" = '600 root' ] || fail "others can read /etc/reactor/reactor.env"
dpkg -V reactor || fail "files differ from the package's"
echo 'REACTOR_LANES=3' >>/etc/reactor/reactor.env
install "$new"
[[ $(reactor version) == *gabcdef* ]] || fail "after the upgrade the program says $(reactor version)"
grep -q REACTOR_LANES /etc/reactor/reactor.env || fail "the upgrade has lost a setting"
dpkg --remove reactor >/dev/null
[ -e /etc/reactor/reactor.env ] && [ ! -e /usr/bin/reactor ] || fail "a removal keeps the settings, and nothing else"
dpkg --purge reactor >/dev/null 2>&1
for left in /usr/bin/reactor /etc/reactor /lib/systemd/system/reactor.service /usr/share/doc/reactor; do
  [ ! -e $left ] || fail "$left is left behind"
done
echo "deb-test: installed, upgraded, removed and purged $(basename "$new"), $(stat -c %s "$new") bytes"
