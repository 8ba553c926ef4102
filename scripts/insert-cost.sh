#!/usr/bin/env bash
# What the triggers cost whoever inserts: pgbench with single-row inserts, and bulk inserts
# with psql, each without triggers, with fire_at beyond the notify horizon of a minute (no
# notification), and within it (one for each transaction).
#   scripts/insert-cost.sh postgres://postgres@localhost/scratch
# Needs a database with the schema and nothing of value in its table jobs, as their owner:
# it switches the triggers off and on again, and empties the table.
set -euo pipefail
url=${1:?usage: scripts/insert-cost.sh DATABASE_URL}
clients=${CLIENTS:-8} seconds=${SECONDS_EACH:-5} rounds=${ROUNDS:-3} bulk=${BULK_ROWS:-200000}
run() { psql -qXAt -v ON_ERROR_STOP=1 "$url" "$@"; }
dir=$(mktemp -d)
trap 'run -c "ALTER TABLE jobs ENABLE TRIGGER USER" -c "TRUNCATE jobs"; rm -rf "$dir"' EXIT

insert() { echo "INSERT INTO jobs (topic, payload, fire_at) $1, now() + interval '$2' $3;"; }
insert "SELECT 'insert/cost', 'a payload of about forty bytes or so.....'" "1 day" "" >"$dir/far.sql"
insert "SELECT 'insert/cost', 'a payload of about forty bytes or so.....'" "10 seconds" "" >"$dir/near.sql"

single() { # file
  pgbench -n -M prepared -c "$clients" -j 2 -T "$seconds" -f "$1" "$url" 2>/dev/null | awk '/^tps/ { printf "%.0f", $3 }'
}
bulk() { # interval; prints rows a second
  local begun
  begun=$(date +%s%N)
  run -c "$(insert "SELECT 'insert/cost', 'a payload of about forty bytes or so.....'" "$1" "FROM generate_series(1, $bulk)")"
  echo $((bulk * 1000000 / (($(date +%s%N) - begun) / 1000)))
}
empty() { run -c "TRUNCATE jobs" -c "CHECKPOINT"; }

echo "$clients clients, $seconds s each; bulk inserts of $bulk rows"
printf '%8s %28s %34s\n' "" "single rows, transactions/s" "bulk, rows/s"
printf '%8s %10s %8s %8s    %12s %10s %10s\n' round none far near none far near
for round in $(seq "$rounds"); do
  run -c "ALTER TABLE jobs DISABLE TRIGGER USER"
  empty; none=$(single "$dir/far.sql")
  empty; bulk_none=$(bulk "1 day")
  run -c "ALTER TABLE jobs ENABLE TRIGGER USER"
  empty; far=$(single "$dir/far.sql")
  empty; bulk_far=$(bulk "1 day")
  empty; near=$(single "$dir/near.sql")
  empty; bulk_near=$(bulk "10 seconds")
  printf '%8s %10s %8s %8s    %12s %10s %10s\n' "$round" "$none" "$far" "$near" "$bulk_none" "$bulk_far" "$bulk_near"
done
