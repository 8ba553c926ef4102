#!/usr/bin/env bash
# What must hold before a change lands. Run by `make test`, `make lint`, `make fuzz`.
#   scripts/test.sh         everything; go test comes last, so that its lines end the output
#   scripts/test.sh lint    vet, other systems, staticcheck (staticcheck.conf), gofumpt, tidy modules, no skipped tests
#   scripts/test.sh fuzz    every fuzzer for FUZZ_TIME (as of go test -fuzztime)
#   scripts/test.sh bench   every benchmark once, so that none rots; figures come from make bench
#   scripts/test.sh pure    the tests that only compute, without the race detector
#   scripts/test.sh packages  what is in deploy: containers, Kubernetes, monitoring
#   scripts/test.sh race    all other tests with the race detector, on real servers
#   scripts/test.sh lab     those of the load tool, also with the race detector
#   scripts/test.sh browser  the page in a real browser
#   scripts/test.sh newest  what PostgreSQL versions differ in, on a newer one
# Everywhere go test gets -vet=off: lint has vetted all packages, and go test would do it again
# for each kind of build.
set -euo pipefail
cd "$(dirname "$0")/.."

# A number of runs, not a time: at the end of a time Go 1.26 now and then reports
# "context deadline exceeded" though nothing failed (go.dev/issue/75804).
fuzz_time=${FUZZ_TIME:-10000x}

# They start no goroutine, so the race detector has nothing to find there, and their parallel tests
# share nothing. It makes these tests, which only compute, three times as slow: 105 s of a core
# instead of 35.
pure=(reactor/internal/handoff timerwheel)

# These simulate hours of loading in synthetic time, and would take six times as long with the race detector:
# 110 s of a core instead of 18. The other tests of the loader run the same goroutines with it.
simulated='^(TestEverythingIsFound|TestDueNowBehindBacklog|TestBacklogBesideFullMemory|TestBulkHintsDoNotReplaceTheSweep|TestRandomIDs|TestForgedHints)$'

step() { printf '\n== %s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }

# in_modules runs a command in the folder of the library and daemon, of the lab, and of what checks
# the packages, up to the first that fails.
in_modules() {
  local module
  for module in . lab deploy; do
    (cd "$module" && "$@") || return
  done
}

lint() {
  local tools module unformatted typecheck
  tools=$PWD/tools/go.mod

  step "go vet"
  in_modules go vet ./...
  (cd tools && go vet ./...)

  step "types on macOS and Windows"
  typecheck=$(mktemp -d)
  (cd tools && go build -o "$typecheck" ./typecheck)
  (export GOOS=darwin; "$typecheck/typecheck" ./... && cd lab && "$typecheck/typecheck" ./...) # what checks the packages runs on Linux
  GOOS=windows "$typecheck/typecheck" ./... # the lab needs Unix
  rm -r "$typecheck"

  step "staticcheck"
  # Not of what checks the packages: it would analyse all of Kubernetes' types, for minutes.
  for module in . lab; do
    (cd "$module" && go tool -modfile="$tools" staticcheck ./...)
  done

  step "gofumpt"
  unformatted=$(go tool -modfile="$tools" gofumpt -l .)
  [ -z "$unformatted" ] || fail "run make fmt; these differ:"$'\n'"$unformatted"

  step "go mod tidy"
  for module in . lab deploy tools; do
    (cd "$module" && go mod tidy -diff)
  done

  step "no test is skipped"
  if grep -rnE '\b(t|tb|b|f|test)\.(Skip|Skipf|SkipNow)\(|\btesting\.Short\(\)' --include='*.go' .; then
    fail "a skipped test proves nothing: install what it needs in scripts/setup.sh"
  fi

  step "no goroutine in ${pure[*]}"
  if grep -rnE '^[[:space:]]*go [a-z]|\.Go\(' --include='*.go' "${pure[@]}"; then
    fail "then it is to be tested with the race detector: take it from pure in scripts/test.sh"
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
    if ! (cd "$(dirname "$file")" && go test -vet=off -run '^$' -fuzz "^$name\$" -fuzztime "$fuzz_time" -fuzzminimizetime 10x .) \
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
  in_modules go test -vet=off -run '^$' -bench . -skip 10M -benchtime 1x -timeout 10m ./... | grep -E '^(Benchmark|FAIL|---|panic)' ||
    fail "a benchmark failed, or there is none"
}

pure() {
  step "go test, of what only computes"
  go test -vet=off "${pure[@]/#/./}"
  go test -vet=off -run "$simulated" ./reactor/internal/load
}

race() {
  local rest
  rest=$(go list ./... | grep -vEf <(printf '/%s$\n' "${pure[@]}"))
  step "go test -race"
  # shellcheck disable=SC2086 # a list of packages
  go test -race -vet=off -timeout 15m -skip "$simulated" $rest
}

lab() {
  local rest
  rest=$(cd lab && go list ./... | grep -v '/internal/browser$')
  step "go test -race, of the load tool"
  # shellcheck disable=SC2086 # a list of packages
  (cd lab && go test -race -vet=off -timeout 10m $rest)
}

# browser has no race detector: what the page runs in the program is tested with it in internal/page, and a slow
# program beside a slow browser would only take longer. It runs always: the program that serves the page is built by the
# tests, so go test does not see that it has changed.
browser() {
  step "go test, of the page in a browser"
  (cd lab && go test -vet=off -count 1 -timeout 5m ./internal/browser)
}

# packages checks what is in deploy. No code of ours runs in the test's process.
packages() {
  step "go test, of what is in deploy"
  (cd deploy && go test -vet=off ./...)
}

newest() {
  local bin
  step "the database on a newer PostgreSQL"
  bin=$(scripts/newest-postgres.sh)
  # What versions differ in: replication, publications, the catalogs, plans. The rest, which takes
  # two minutes more: REACTOR_TEST_POSTGRES=$(scripts/newest-postgres.sh) go test ./...
  REACTOR_TEST_POSTGRES=$bin go test -vet=off -timeout 5m ./pgsource \
    -run 'WAL|Feed|Publi|Hints|Identit|Slot|Sender|Right|Partition|Heirs|Planted|Upgrade|Down|Tables|Plans|Claim|Settings|Membership'
  REACTOR_TEST_POSTGRES=$bin go test -vet=off -timeout 5m -run 'Feed|WAL' ./reactor
}

# everything runs the tests that wait for servers, leases and deadlines beside the steps that
# only compute. Those yield to them (nice), for the tests measure how late jobs are. The race detector comes
# first among the tests: its build shares nothing with what lint compiles at the same time. The load tool's tests
# come last, alone, for they hold what is measured against what is measured a moment later.
everything() {
  local logs tests part status=0
  logs=$(mktemp -d)
  set -m # the tests get a process group of their own, which can be ended as a whole
  race >"$logs/race" 2>&1 </dev/null &
  tests=$!
  set +m
  # shellcheck disable=SC2064 # with the values of now
  trap "kill -- -$tests 2>/dev/null && wait $tests || :; rm -rf '$logs'" EXIT
  for part in lint fuzz bench pure packages; do # all of them: who waits that long wants to know everything
    nice -n 10 scripts/test.sh "$part" || status=$?
  done
  scripts/test.sh newest || status=$?
  scripts/test.sh browser || status=$?
  wait "$tests" || status=$?
  scripts/test.sh lab || status=$?
  cat "$logs/race" 2>/dev/null || :
  exit "$status"
}

case ${1:-all} in
  all) everything ;;
  lint | fuzz | bench | pure | packages | newest | lab | browser | race) "$1" ;;
  *) fail "usage: scripts/test.sh [lint|fuzz|bench|pure|packages|newest|lab|browser|race]" ;;
esac
