#!/usr/bin/env bash
# What it costs to be told of new jobs: whoever inserts (pgbench, single rows, and psql, in bulk),
# the server, and the instances, with no feed, with the triggers and with the WAL; and how
# long it takes from an insert to the claim.
#   scripts/feed-cost.sh postgres://postgres@localhost/scratch mqtt://localhost
# Needs bin/reactor, pgbench, a database with nothing of value in its table jobs, as a superuser
# of a server on this machine with wal_level = logical, and a broker. It changes the database
# over from one feed to the other, and empties the table.
set -euo pipefail
url=${1:?usage: scripts/feed-cost.sh DATABASE_URL MQTT_URL} mqtt=${2:?usage: scripts/feed-cost.sh DATABASE_URL MQTT_URL}
clients=${CLIENTS:-8} seconds=${SECONDS_EACH:-5} rounds=${ROUNDS:-3} bulk=${BULK_ROWS:-200000} rate=${RATE:-10000}
cd "$(dirname "$0")/.."
run() { psql -qXAt -v ON_ERROR_STOP=1 "$url" "$@"; }
dir=$(mktemp -d)
instances=()
stop() {
  local pid
  for pid in "${instances[@]}"; do kill "$pid" 2>/dev/null || :; done
  for pid in "${instances[@]}"; do wait "$pid" 2>/dev/null || :; done
  instances=()
}
trap 'stop; run -c "TRUNCATE jobs"; rm -rf "$dir"' EXIT

# start FEED COUNT
start() {
  local n
  for n in $(seq "$2"); do
    ./bin/reactor run --database-url "$url" --mqtt-url "$mqtt" --feed "$1" --log-level warn >>"$dir/log" 2>&1 &
    instances+=($!)
  done
  until [ "$(run -c "SELECT count(*) = $2 AND bool_and(feed = '$1') FROM reactor.instances")" = t ]; do sleep 0.1; done
}

insert() { echo "INSERT INTO jobs (topic, payload, fire_at) $1, clock_timestamp() + interval '$2' $3;"; }
values="SELECT 'feed/cost', 'a payload of about forty bytes or so.....'"
insert "$values" "1 day" "" >"$dir/far.sql"
insert "$values" "20 seconds" "" >"$dir/near.sql"
insert "$values" "0" "" >"$dir/now.sql"

single() { # FILE; prints transactions a second
  run -c "TRUNCATE jobs" -c "CHECKPOINT"
  pgbench -n -M prepared -c "$clients" -j 2 -T "$seconds" -f "$dir/$1.sql" "$url" 2>/dev/null | awk '/^tps/ { printf "%.0f", $3 }'
}
bulk() { # INTERVAL; prints rows a second
  local begun
  run -c "TRUNCATE jobs" -c "CHECKPOINT"
  begun=$(date +%s%N)
  run -c "$(insert "$values" "$1" "FROM generate_series(1, $bulk)")"
  echo $((bulk * 1000000 / (($(date +%s%N) - begun) / 1000)))
}
ticks() { # PID…; their CPU time so far
  local pid sum=0
  for pid in "$@"; do sum=$((sum + $(awk '{ print $14 + $15 }' "/proc/$pid/stat" 2>/dev/null || echo 0))); done
  echo "$sum"
}
share() { awk -v t="$1" -v s="$seconds" -v hz="$(getconf CLK_TCK)" 'BEGIN { printf "%.1f %%", 100 * t / hz / s }'; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }

./bin/reactor migrate up --database-url "$url" >/dev/null
echo "$clients clients, $seconds s each; bulk inserts of $bulk rows. Without a feed: the bare table. The others as shares of it,"
echo "with one instance that listens; in brackets with none."
printf '\n| round | single rows | triggers, far | near | WAL, far | near | bulk, rows/s | triggers, near | WAL, near |\n|---|---|---|---|---|---|---|---|---|\n'
for round in $(seq "$rounds"); do
  ./bin/reactor migrate feed wal --database-url "$url" >/dev/null
  bare=$(single far) bare_bulk=$(bulk "1 day")
  start wal 1
  wal_far=$(single far) wal_near=$(single near) wal_bulk=$(bulk "20 seconds")
  stop
  ./bin/reactor migrate feed notify --database-url "$url" >/dev/null
  alone=$(single near) alone_far=$(single far)
  start notify 1
  notify_far=$(single far) notify_near=$(single near) notify_bulk=$(bulk "20 seconds")
  stop
  printf '| %s | %s /s | %s (%s) | %s (%s) | %s | %s | %s | %s | %s |\n' "$round" "$bare" \
    "$(ratio "$notify_far" "$bare")" "$(ratio "$alone_far" "$bare")" "$(ratio "$notify_near" "$bare")" "$(ratio "$alone" "$bare")" \
    "$(ratio "$wal_far" "$bare")" "$(ratio "$wal_near" "$bare")" "$bare_bulk" "$(ratio "$notify_bulk" "$bare_bulk")" "$(ratio "$wal_bulk" "$bare_bulk")"
done

printf '\n%s inserts/s into the far future for %s s, CPU of a core: each instance, its WAL sender, all of them\n\n' "$rate" "$seconds"
printf '| feed, instances | an instance | its WAL sender | all together |\n|---|---|---|---|\n'
for feed in poll notify wal; do
  ./bin/reactor migrate feed "${feed/poll/wal}" --database-url "$url" >/dev/null
  for count in 1 5; do
    start "$feed" "$count"
    senders=$(run -c "SELECT string_agg(pid::text, ' ') FROM pg_stat_replication")
    # shellcheck disable=SC2086
    before=$(ticks "${instances[@]}") before_senders=$(ticks $senders)
    run -c "TRUNCATE jobs"
    pgbench -n -M prepared -c "$clients" -j 2 -R "$rate" -T "$seconds" -f "$dir/far.sql" "$url" >/dev/null 2>&1
    # shellcheck disable=SC2086
    mine=$(($(ticks "${instances[@]}") - before)) theirs=$(($(ticks $senders) - before_senders))
    printf '| %s, %s | %s | %s | %s |\n' "$feed" "$count" "$(share $((mine / count)))" "$(share $((theirs / count)))" "$(share $((mine + theirs)))"
    stop
  done
done

printf '\nfrom the insert of a job that is due at once to its claim, 200 a second, in ms\n\n| feed | p50 | p99 | max |\n|---|---|---|---|\n'
for feed in notify wal; do
  ./bin/reactor migrate feed "$feed" --database-url "$url" >/dev/null
  start "$feed" 1
  run -c "TRUNCATE jobs"
  pgbench -n -M prepared -c 2 -j 2 -R 200 -T "$((2 * seconds))" -f "$dir/now.sql" "$url" >/dev/null 2>&1
  until [ "$(run -c "SELECT NOT EXISTS (SELECT FROM jobs WHERE NOT processed)")" = t ]; do sleep 0.1; done
  run -F ' | ' -c "SELECT '| $feed', round(1000 * (percentile_cont(0.5) WITHIN GROUP (ORDER BY late))::numeric, 2), round(1000 * (percentile_cont(0.99) WITHIN GROUP (ORDER BY late))::numeric, 2),
      round(1000 * max(late)::numeric, 1) || ' |' FROM (SELECT extract(epoch FROM processed_at - fire_at) AS late FROM jobs) AS claims"
  stop
done
