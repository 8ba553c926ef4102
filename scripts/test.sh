#!/usr/bin/env bash
# What must hold before a change lands. Run by `make test`, `make lint`, `make fuzz`.
#   scripts/test.sh         everything; go test comes last, so that its lines end the output
#   scripts/test.sh lint    vet, other systems, staticcheck (staticcheck.conf), gofumpt, tidy modules, no skipped tests
#   scripts/test.sh fuzz    every fuzzer for FUZZ_TIME (as of go test -fuzztime)
#   scripts/test.sh bench   every benchmark once, so that none rots; figures come from make bench
#   scripts/test.sh race    all tests with the race detector, on real servers
#   scripts/test.sh newest  what PostgreSQL versions differ in, on a newer one
set -euo pipefail
cd "$(dirname "$0")/.."

# A number of runs, not a time: at the end of a time Go 1.26 now and then reports
# "context deadline exceeded" though nothing failed (go.dev/issue/75804).
fuzz_time=${FUZZ_TIME:-20000x}

step() { printf '\n== %s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }

# in_modules runs a command in the folder of the library and daemon, and in that of the lab,
# up to the first that fails.
in_modules() {
  local module
  for module in . lab; do
    (cd "$module" && "$@") || return
  done
}

lint() {
  local tools module unformatted
  tools=$PWD/tools/go.mod

  step "go vet"
  in_modules go vet ./...

  step "go build, elsewhere than on Linux"
  GOOS=darwin go build ./...
  # The test kit's servers need Unix.
  GOOS=windows go build -o /dev/null ./cmd/reactor

  step "staticcheck"
  in_modules go tool -modfile="$tools" staticcheck ./...

  step "gofumpt"
  unformatted=$(go tool -modfile="$tools" gofumpt -l .)
  [ -z "$unformatted" ] || fail "run make fmt; these differ:"$'\n'"$unformatted"

  step "go mod tidy"
  for module in . lab tools; do
    (cd "$module" && go mod tidy -diff)
  done

  step "no test is skipped"
  if grep -rnE '\b(t|tb|b|f|test)\.(Skip|Skipf|SkipNow)\(|\btesting\.Short\(\)' --include='*.go' .; then
    fail "a skipped test proves nothing: install what it needs in scripts/setup.sh"
  fi
}

fuzz() {
  local targets file name log
  targets=$(grep -rHoE '^func Fuzz[A-Za-z0-9_]*' --include='*_test.go' .) || fail "no fuzzers found"
  log=$(mktemp)
  while IFS=: read -r file name; do
    name=${name#func }
    step "fuzz $name, $fuzz_time"
    # Without the limit a run spends itself on making interesting inputs smaller.
    if ! (cd "$(dirname "$file")" && go test -run '^$' -fuzz "^$name\$" -fuzztime "$fuzz_time" -fuzzminimizetime 10x .) \
      >"$log" 2>&1 </dev/null; then
      cat "$log"
      rm -f "$log"
      fail "$name failed; an input that does it again is in $(dirname "$file")/testdata/fuzz, if the log names one"
    fi
    tail -3 "$log"
  done <<<"$targets"
  rm -f "$log"
}

bench() {
  step "every benchmark once"
  # Without those of ten million entries, which take a minute to fill.
  in_modules go test -run '^$' -bench . -skip 10M -benchtime 1x -timeout 10m ./... | grep -E '^(Benchmark|FAIL|---|panic)' ||
    fail "a benchmark failed, or there is none"
}

race() {
  step "go test -race, of both modules"
  in_modules go test -race -timeout 10m ./...
}

newest() {
  local bin
  step "the database on a newer PostgreSQL"
  bin=$(scripts/newest-postgres.sh)
  # What versions differ in: replication, publications, the catalogs, plans. The rest, which takes
  # two minutes more: REACTOR_TEST_POSTGRES=$(scripts/newest-postgres.sh) go test ./...
  REACTOR_TEST_POSTGRES=$bin go test -timeout 5m ./pgsource \
    -run 'WAL|Feed|Publi|Hints|Identit|Slot|Sender|Right|Partition|Heirs|Planted|Upgrade|Down|Tables|Plans|Claim|Settings|Membership'
  REACTOR_TEST_POSTGRES=$bin go test -timeout 5m -run 'Feed|WAL' ./reactor
}

case ${1:-all} in
  all) # one after the other, and no && between them: it would switch set -e off inside
    lint
    fuzz
    bench
    newest
    race
    ;;
  lint | fuzz | bench | newest | race) "$1" ;;
  *) fail "usage: scripts/test.sh [lint|fuzz|bench|newest|race]" ;;
esac
