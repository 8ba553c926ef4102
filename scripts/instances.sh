#!/usr/bin/env bash
# Measures what grows with the number of instances: statements a job, CPU, and what the database
# is asked and holds while there is nothing to do. About six minutes, on servers of its own.
#   scripts/instances.sh [FOLDER]      default: dist/instances
# COUNTS="1 5 20", RATE jobs/s for SECONDS_EACH s, FLAGS for reactor-lab bench. BASE=FOLDER
# measures the reactor and reactor-lab in that folder, too, in turn with those in bin.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-dist/instances} counts=${COUNTS:-1 5 20} rate=${RATE:-200} seconds=${SECONDS_EACH:-30} flags=${FLAGS:-}
mkdir -p "$out"
make --no-print-directory build lab >/dev/null

bench() { # FOLDER FILE FLAGS…
  local folder=$1 file=$2
  shift 2
  # shellcheck disable=SC2086
  "$folder/reactor-lab" bench --stack $flags "$@" | grep -v '  \[[·█]' >"$file" || echo "FAILED: see $file"
}
row() { awk -v name="$2" 'index($0, name) { print $NF; exit }' "$1"; }
# The share of a core of all processes of a name.
share() { awk -v name="$2" '$1 == "reactor" && $2 == name { sum += name == "instance" ? $5 : $4 } END { printf "%.1f", sum }' "$1"; }

measure() { # NAME FOLDER INSTANCES
  local load="$out/$1-$3-load.txt" idle="$out/$1-$3-idle.txt" asked
  bench "$2" "$load" --instances "$3" --rate "$rate" --jobs $((rate * seconds))
  bench "$2" "$idle" --instances "$3" --idle "${seconds}s"
  asked=$(awk '/^idle for/ { for (i = 2; i <= NF; i++) if ($i == "statements") print $(i - 1), $(NF - 1) }' "$idle")
  printf '%-5s %9d %16s %8s %11s %8s %8s %13s %8s %11s %12s\n' "$1" "$3" \
    "$(row "$load" 'statements per job')" "$(share "$load" postgres)" "$(share "$load" instance)" "$(row "$load" ' p50')" "$(row "$load" ' p99')" \
    "${asked% *}" "$(share "$idle" postgres)" "$(share "$idle" instance)" "${asked#* }"
}

printf '%-5s %9s %16s %8s %11s %8s %8s %13s %8s %11s %12s\n' '' instances statements/job 'PG %' 'instances %' 'p50 ms' 'p99 ms' 'idle: stmts/s' 'PG %' 'instances %' connections
for n in $counts; do
  if [ -n "${BASE:-}" ]; then measure base "$BASE" "$n"; fi
  measure now bin "$n"
done
echo "% are of one core, of all instances together; under load with their start"
