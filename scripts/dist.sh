#!/usr/bin/env bash
# Makes what a release consists of, in dist/: archives for all systems, Debian packages, for each program a list of
# what it is made of (CycloneDX), and the checksums of all. The same commit gives the same bytes.
#   scripts/dist.sh VERSION
set -euo pipefail
version=${1:?usage: scripts/dist.sh VERSION}
cd "$(dirname "$0")/.."
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
# Where Go keeps the program, for this machine; it writes GOOS and GOARCH of its environment into the list.
gomod=$(go tool -modfile=tools/sbom/go.mod -n cyclonedx-gomod)

rm -rf dist
mkdir -p dist
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for target in linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64; do
  os=${target%/*} arch=${target#*/}
  name=reactor-$version-$os-$arch
  program=$work/$name/reactor
  [ "$os" != windows ] || program=$program.exe
  echo "dist: $name"
  GOOS=$os GOARCH=$arch scripts/build.sh "$program" "$version"
  cp -R README.md CHANGELOG.md LICENSE docs "$work/$name/"
  chmod -R u=rwX,go=rX "$work/$name"
  tar -C "$work" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -cf - "$name" | gzip -n9 >"dist/$name.tar.gz"
  # It reads what the linker wrote into the program, so it lists what is in it and nothing else, with the version of Go's library.
  GOOS=$os GOARCH=$arch "$gomod" bin -json -std -noserial -notimestamp -version "$version" -output "dist/$name.cdx.json" "$program" 2>"$work/log" ||
    { cat "$work/log" >&2; exit 1; }
  grep -q "goos=$os" "dist/$name.cdx.json" || { echo "dist/$name.cdx.json is about another system" >&2; exit 1; }
  if [ "$os" = linux ] && command -v dpkg-deb >/dev/null; then
    scripts/deb.sh "$program" "$arch" "$version" dist >/dev/null
  fi
done
(cd dist && sha256sum -- * >"$work/sums" && mv "$work/sums" SHA256SUMS)
(cd dist && ls -l)
