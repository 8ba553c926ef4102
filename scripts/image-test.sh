#!/usr/bin/env bash
# Builds the image twice without a cache, and checks what docs/containers.md promises of it: layers that
# are the same byte for byte, at most 20 MB, nothing but the program and the certificates, not root, and a
# program that needs neither a writable root nor a capability. Needs an engine; removes what it built.
#   scripts/image-test.sh
#   BUILD_FLAGS='--network host' scripts/image-test.sh    further flags of docker build
set -euo pipefail
cd "$(dirname "$0")/.."

most_bytes=20000000
version=image-test
tags=(reactor-image-test:a reactor-image-test:b)
work=$(mktemp -d)
# docker rmi fails for what was not built.
trap 'rm -rf "$work"; docker rmi -f "${tags[@]}" >/dev/null 2>&1 || :' EXIT

fail() { printf 'image-test: %s\n' "$*" >&2; exit 1; }
field() { docker image inspect -f "$2" "$1"; }

for tag in "${tags[@]}"; do
  # shellcheck disable=SC2086 # flags
  docker build --no-cache ${BUILD_FLAGS:-} --build-arg VERSION=$version -t "$tag" . >"$work/log" 2>&1 || { cat "$work/log"; fail "docker build failed"; }
done
a=${tags[0]} b=${tags[1]}

layers=$(field "$a" '{{json .RootFS.Layers}}')
[ "$layers" = "$(field "$b" '{{json .RootFS.Layers}}')" ] || fail "the layers of two builds differ: $layers $(field "$b" '{{json .RootFS.Layers}}')"
bytes=$(field "$a" '{{.Size}}')
[ "$bytes" -le $most_bytes ] || fail "the image has $bytes bytes, more than $most_bytes"
[ "$(field "$a" '{{.Config.User}}')" = 65532:65532 ] || fail "the user is $(field "$a" '{{.Config.User}}')"

# Docker adds files of its own when it makes a container, all of them empty.
container=$(docker create "$a")
docker export "$container" >"$work/root.tar"
docker rm "$container" >/dev/null
files=$(tar -tvf "$work/root.tar" | awk '$1 ~ /^-/ && $3 > 0 { print $6 }' | sort | paste -sd ' ')
[ "$files" = "etc/ssl/certs/ca-certificates.crt reactor" ] || fail "the image contains: $files"

said=$(docker run --rm --read-only --cap-drop ALL --security-opt no-new-privileges --network none "$a" version)
case $said in *"$version"*) ;; *) fail "reactor version says $said" ;; esac
# Settings that are missing: status 2, and one line that names them.
status=0
docker run --rm --read-only --network none "$a" >"$work/out" 2>&1 || status=$?
[ "$status" = 2 ] || { cat "$work/out"; fail "without settings the status is $status"; }

echo "image-test: $bytes bytes, user 65532, layers $layers"
