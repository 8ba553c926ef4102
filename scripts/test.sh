#!/usr/bin/env bash
# Everything that must hold before a change lands: vet, staticcheck, gofumpt, tidy
# modules, all tests with the race detector on real servers, and a short run of every
# fuzzer. Run by `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."
fuzz_time=${FUZZ_TIME:-5s}

step() { printf '\n== %s\n' "$*"; }

step "go vet"
go vet ./...

step "staticcheck"
go tool staticcheck ./...

step "gofumpt"
unformatted=$(git ls-files -co --exclude-standard '*.go' | xargs go tool gofumpt -l)
if [ -n "$unformatted" ]; then
  printf 'run make fmt; these differ:\n%s\n' "$unformatted"
  exit 1
fi

step "go mod tidy"
go mod tidy -diff

step "no test may be skipped"
if grep -rnE '\bt\.Skip|testing\.Short\(\)' --include='*_test.go' .; then
  echo "a skipped test proves nothing: install what it needs in scripts/setup.sh"
  exit 1
fi

step "fuzz, $fuzz_time each"
grep -rnoE '^func (Fuzz[A-Za-z0-9_]+)' --include='*_test.go' . | while IFS=: read -r file _ name; do
  go test -run '^$' -fuzz "^${name#func }\$" -fuzztime "$fuzz_time" "$(dirname "$file")" | tail -1
done

step "go test -race"
go test -race -timeout 10m ./...
