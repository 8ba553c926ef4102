#!/usr/bin/env bash
# Measures everything that docs/benchmarks.md has tables of, on servers of its own: about half an
# hour on two cores. Writes for each run its results as JSON, and a page with charts and tables.
# reactor-lab draw FILE.json --plot FILE.svg makes the plots.
#   scripts/benchmarks.sh [FOLDER]      default: dist/benchmarks
# Leave the machine alone meanwhile, and compare what one run measured, not two runs.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-dist/benchmarks} rounds=${ROUNDS:-3}
mkdir -p "$out"
make --no-print-directory lab

bench() { # name, flags of reactor-lab bench
  local name=$1
  shift
  printf '\n== %s: reactor-lab bench --stack %s\n' "$name" "$*"
  # What was published too often or not at all fails the run; the rest goes on without it.
  ./bin/reactor-lab bench --stack "$@" --json "$out/$name.json" --report "$out/$name.html" | grep -v '  \[[·█]' || echo "FAILED: $name"
}

for round in $(seq "$rounds"); do
  bench "backlog-at-least-once-$round" --jobs 100000 --delivery at-least-once --ceiling --baseline poll
  bench "backlog-exactly-once-$round" --jobs 100000 --delivery exactly-once --ceiling
  bench "backlog-at-most-once-$round" --jobs 100000 --delivery at-most-once --ceiling
  for delivery in at-least-once exactly-once; do
    bench "backlog-$delivery-five-$round" --jobs 100000 --delivery "$delivery" --instances 5
  done
done
for delivery in exactly-once at-least-once at-most-once; do
  bench "paced-100-$delivery" --jobs 2000 --rate 100 --delivery "$delivery"
  bench "paced-1000-$delivery" --jobs 20000 --rate 1000 --delivery "$delivery" --baseline poll
  bench "paced-10000-$delivery" --jobs 150000 --rate 10000 --delivery "$delivery"
  bench "instant-$delivery" --jobs 10000 --same-instant --delivery "$delivery"
done
for delivery in exactly-once at-least-once; do
  bench "paced-1000-$delivery-five" --jobs 20000 --rate 1000 --delivery "$delivery" --instances 5
  bench "fsync-backlog-$delivery" --fsync --jobs 100000 --delivery "$delivery" --ceiling
  bench "fsync-paced-1000-$delivery" --fsync --jobs 20000 --rate 1000 --delivery "$delivery"
done
for delivery in exactly-once at-least-once; do
  for rate in 100 1000 5000; do
    bench "floor-$rate-$delivery" --jobs $((rate * 8)) --rate "$rate" --delivery "$delivery" --floor --rounds "$rounds"
  done
  bench "floor-instant-$delivery" --jobs 10000 --same-instant --delivery "$delivery" --floor --rounds "$rounds"
done
bench "backlog-staged-or-not" --jobs 60000 --ceiling --compare-flag=--stage=off --rounds "$rounds"
bench "urgent" --jobs 200000 --urgent-every 20ms
bench "snapshot" --jobs 200000 --rate 2000 --hold-snapshot --baseline poll --poll-rows 1000 --poll-every 1ms
bench "instances" --jobs 20000 --rate 1000 --instances 1,5,20
bench "idle-instances" --idle 30s --instances 1,5,20
# Needs 6 GB of disk.
bench "stored" --jobs 10000 --rate 1000 --pending 10000000 --processed 10000000
bench "poller-tuned" --jobs 2000 --rate 100 --delivery at-least-once --baseline poll --poll-rows 1000 --poll-every 1ms
bench "workload-20000" --jobs 20000
bench "idle" --idle 60s
bench "idle-five" --idle 60s --instances 5
bench "pending-million" --jobs 1000000 --same-instant --ahead 40s --delivery at-least-once
REACTOR_MAX_PENDING=1100000 bench "pending-million-in-memory" --jobs 1000000 --same-instant --ahead 40s --delivery at-least-once
printf '\nwritten to %s\n' "$out"
