#!/usr/bin/env bash
# Makes a Debian package of a program that is already built, the same one each time: dpkg-deb sorts, and takes all
# times from SOURCE_DATE_EPOCH.
#   scripts/deb.sh PROGRAM ARCHITECTURE VERSION FOLDER     prints the package's path
set -euo pipefail
[ $# = 4 ] || { echo "usage: scripts/deb.sh PROGRAM ARCHITECTURE VERSION FOLDER" >&2; exit 2; }
program=$(realpath "$1") arch=$2 output=$(realpath "$4")
cd "$(dirname "$0")/.."
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0}

# v0.1.0-5-gabc is later than 0.1.0, and in Debian's order so is 0.1.0+5.gabc. A version begins with a digit.
version=$(sed -E 's/^v//; s/-([0-9]+)-(g[0-9a-f]+)/+\1.\2/; s/-dirty$/+dirty/; s/-/~/g; s/[^A-Za-z0-9.+~]/./g; s/^([^0-9])/0~\1/' <<<"$3")

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
doc=$root/usr/share/doc/reactor
install -d -m 755 "$root/DEBIAN" "$doc/docs"
install -D -m 755 "$program" "$root/usr/bin/reactor"
install -D -m 644 deploy/systemd/reactor.service "$root/lib/systemd/system/reactor.service"
install -D -m 600 deploy/systemd/reactor.env "$root/etc/reactor/reactor.env"
install -m 644 README.md "$doc"
install -m 644 docs/*.md "$doc/docs"
install -m 644 LICENSE "$doc/copyright"
gzip -n9 <CHANGELOG.md >"$doc/changelog.gz"
chmod 644 "$doc/changelog.gz"

size=$(du -sk --apparent-size "$root/usr" | cut -f1)
sed "s/@VERSION@/$version/; s/@ARCH@/$arch/; s/@SIZE@/$size/" deploy/debian/control >"$root/DEBIAN/control"
echo /etc/reactor/reactor.env >"$root/DEBIAN/conffiles"
install -m 755 deploy/debian/{postinst,prerm,postrm} "$root/DEBIAN/"
(cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
find "$root" -type d -exec chmod 755 {} +

package=$output/reactor_${version}_$arch.deb
dpkg-deb --root-owner-group -Zxz --build "$root" "$package" >/dev/null
echo "$package"
