#!/usr/bin/env bash
# Measures what grows with the number of instances: statements a job, CPU, and what the database
# holds and is asked while there is nothing to do. About five minutes, on servers of its own.
#   scripts/instances.sh [FOLDER]      default: dist/instances
# COUNTS="1 5 20", RATE jobs/s for SECONDS_EACH s, FLAGS for each run; BASE=FOLDER measures the
# programs in another folder (reactor, reactor-lab) alternately.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-dist/instances} counts=${COUNTS:-1 5 20} rate=${RATE:-200} seconds=${SECONDS_EACH:-15} flags=${FLAGS:-}
mkdir -p "$out"
[ -n "${NO_BUILD:-}" ] || make --no-print-directory lab

# What the tables say: a measure, or the share of a core of the processes whose names match.
row() { awk -v name="$2" 'index($0, name) { print $NF; exit }' "$1"; }
share() { awk -v name="$2" '$1 == "reactor" && $2 ~ name { sum += $(NF < 5 ? NF : /instance/ ? NF - 3 : NF - 1) } END { printf "%.1f", sum }' "$1"; }

measure() { # NAME, folder of the programs, instances
  local load="$out/$1-$3-load.txt" idle="$out/$1-$3-idle.txt"
  # shellcheck disable=SC2086
  "$2/reactor-lab" bench --stack --instances "$3" --rate "$rate" --jobs $((rate * seconds)) $flags >"$load"
  # shellcheck disable=SC2086
  "$2/reactor-lab" bench --stack --instances "$3" --idle "${seconds}s" $flags >"$idle"
}

printf '%-6s %9s   %14s %9s %9s %9s %9s   %12s %9s %9s %11s\n' which instances statements/job 'PG %' 'inst. %' 'p50 ms' 'p99 ms' 'idle stmts/s' 'PG %' 'inst. %' connections
for n in $counts; do
  if [ -n "${BASE:-}" ]; then measure base "$BASE" "$n"; fi
  measure now bin "$n"
done
echo "% are of one core; written to $out"
