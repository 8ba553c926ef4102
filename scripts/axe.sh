#!/usr/bin/env bash
# Prints the path of axe-core, with which the tests in lab/internal/browser find what keeps people from using
# the page. It comes from npm, is held to its checksum, and what was fetched once is used again.
set -euo pipefail
version=4.14.1
sum=e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745
file=${TMPDIR:-/tmp}/reactor-axe-$version-$(id -u)/axe.min.js
if [ ! -O "$file" ]; then
  command -v npm >/dev/null || { echo "npm is missing: make setup" >&2; exit 1; }
  sha256=(sha256sum)
  command -v sha256sum >/dev/null || sha256=(shasum -a 256) # macOS
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  (cd "$work" && npm pack --silent "axe-core@$version" >/dev/null)
  echo "$sum  $work/axe-core-$version.tgz" | "${sha256[@]}" -c >&2
  tar -xzf "$work/axe-core-$version.tgz" -C "$work" package/axe.min.js
  mkdir -p -m 700 "$(dirname "$file")"
  mv "$work/package/axe.min.js" "$file.$$" && mv "$file.$$" "$file" # at once, for those beside us
fi
echo "$file"
