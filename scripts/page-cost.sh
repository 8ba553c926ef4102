#!/usr/bin/env bash
# What the page costs:
#   scripts/page-cost.sh viewers DATABASE_URL MQTT_URL   CPU of an instance that publishes 5,000 jobs/s, with nobody who looks and
#                                                        with five who do, by turns, and of the connection that reads for them
#   scripts/page-cost.sh rows DATABASE_URL MQTT_URL      how long each page takes over HTTP, with 10,000,000 rows
# Needs bin/reactor, curl, a database with nothing of value in its table jobs, as a superuser of a server on this machine, and a
# broker. It empties the table. VIEWERS, RATE, SECONDS_EACH, ROUNDS, ROWS and PORT change the numbers.
set -euo pipefail
usage='usage: scripts/page-cost.sh viewers|rows DATABASE_URL MQTT_URL'
what=${1:?$usage} url=${2:?$usage} mqtt=${3:?$usage}
viewers=${VIEWERS:-5} rate=${RATE:-5000} seconds=${SECONDS_EACH:-20} rounds=${ROUNDS:-4} rows=${ROWS:-10000000} port=${PORT:-19883}
cd "$(dirname "$0")/.."
page=http://127.0.0.1:$port
run() { psql -qXAt -v ON_ERROR_STOP=1 "$url" "$@"; }
dir=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || :; wait; run -c "TRUNCATE jobs, reactor.failed_jobs"; rm -rf "$dir"' EXIT

start() { # the instance
  ./bin/reactor run --database-url "$url" --mqtt-url "$mqtt" --http-addr "127.0.0.1:$port" --log-level warn >>"$dir/log" 2>&1 &
  instance=$!
  pids+=("$instance")
  until curl -sf "$page/readyz" >/dev/null; do
    kill -0 "$instance" || { cat "$dir/log" >&2; exit 1; }
    sleep 0.1
  done
}
ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; } # PID; its CPU time so far
share() { awk -v t="$1" -v s="$seconds" -v hz="$(getconf CLK_TCK)" 'BEGIN { printf "%.2f", 100 * t / hz / s }'; }
reader() { run -c "SELECT pid FROM pg_stat_activity WHERE application_name = 'reactor page' AND datname = current_database()"; }

# reading SECONDS; sets read to the CPU time of the connections that read in that time: one that is slow ends, and another one begins
reading() {
  local until=$((SECONDS + $1)) pid='' seen=0 now
  read=0
  while [ "$SECONDS" -lt "$until" ]; do
    if [ -z "$pid" ] || ! now=$(ticks "$pid" 2>/dev/null); then
      pid=$(reader) seen=0
      [ -z "$pid" ] || seen=$(ticks "$pid" 2>/dev/null || echo 0)
    else
      read=$((read + now - seen)) seen=$now
    fi
    sleep 0.5
  done
}

# window COUNT; sets mine and theirs, the shares of a core that the instance and the reader take while COUNT look
window() {
  local looking=() n before
  for n in $(seq "$1"); do
    curl -sN "$page/events" >"$dir/viewer-$n" &
    looking+=($!)
  done
  if [ "$1" = 0 ]; then
    until [ -z "$(reader)" ]; do sleep 0.2; done
  else
    until grep -q "^event: tick" "$dir/viewer-$1"; do sleep 0.2; done
  fi
  before=$(ticks "$instance")
  reading "$seconds"
  mine=$(share $(($(ticks "$instance") - before))) theirs=$(share "$read")
  for n in "${looking[@]}"; do kill "$n"; wait "$n" 2>/dev/null || :; done
}

look_on() {
  local round jobs
  jobs=$(((rounds * (2 * seconds + 25) + 30) * rate)) # a reader is gone ten seconds after the last viewer
  run -c "TRUNCATE jobs, reactor.failed_jobs" -c "INSERT INTO jobs (topic, payload, fire_at)
    SELECT 'page/' || n % 100, rpad('job ', 40, '.'), clock_timestamp() + interval '$((10 + jobs / 100000)) seconds' + n * interval '1 second' / $rate FROM generate_series(1, $jobs) n" -c "VACUUM ANALYZE jobs"
  start
  until [ "$(run -c "SELECT count(*) > 2 * $rate FROM jobs WHERE processed")" = t ]; do sleep 0.2; done
  printf '%s jobs/s; %s viewers; windows of %s s; %% of a core\n\n' "$rate" "$viewers" "$seconds"
  printf '| nobody looks | %s look | the difference | the connection that reads | both |\n|---|---|---|---|---|\n' "$viewers"
  for round in $(seq "$rounds"); do
    if [ $((round % 2)) = 1 ]; then window 0; none=$mine; window "$viewers"; some=$mine reads=$theirs; else window "$viewers"; some=$mine reads=$theirs; window 0; none=$mine; fi
    awk -v a="$none" -v b="$some" -v r="$reads" 'BEGIN { printf "| %.2f | %.2f | %.2f | %.2f | %.2f |\n", a, b, b - a, r, b - a + r }' | tee -a "$dir/table"
  done
  awk -F'|' '{ a += $2; b += $3; d += $4; r += $5; s += $6 } END { printf "| mean: %.2f | %.2f | %.2f | %.2f | %.2f |\n", a / NR, b / NR, d / NR, r / NR, s / NR }' "$dir/table"
  run -c "SELECT 'published in the meantime: ' || count(*) || ', not yet though due for a second: ' || (SELECT count(*) FROM jobs WHERE NOT processed AND fire_at < clock_timestamp() - interval '1 second') FROM jobs WHERE processed"
}

take() { # NAME ADDRESS; three times
  local n took=()
  for n in 1 2 3; do took+=("$(curl -s -o "$dir/page" -w '%{time_total}' "$page$2" | awk '{ printf "%.0f", 1000 * $1 }')"); done
  next=$(sed -n 's/.*<a href="\([^"]*\)" rel="next">.*/\1/p' "$dir/page" | sed 's/&amp;/\&/g')
  printf '| %s | %s | %s |\n' "$1" "${took[*]}" "$(($(wc -c <"$dir/page") / 1024))"
}

large() {
  local from n id
  run -c "TRUNCATE jobs, reactor.failed_jobs RESTART IDENTITY"
  for from in $(seq 0 1000000 $((rows - 1))); do # half of them have fired, half fire within a day
    run -c "INSERT INTO jobs (topic, payload, fire_at, key, processed, processed_at, claim)
      SELECT 'bench/' || n % 1000 || '/' || n, repeat('x', 100), now() + interval '10 minutes' + CASE WHEN n % 2 = 0 THEN 1 ELSE -1 END * n * interval '1 day' / $rows, CASE WHEN n % 100 = 0 THEN 'key-' || n END, n % 2 = 1,
             CASE WHEN n % 2 = 1 THEN now() END, CASE WHEN n % 2 = 1 THEN gen_random_uuid() END
        FROM generate_series($from + 1, least($from + 1000000, $rows)) AS n"
  done
  run -c "UPDATE jobs SET topic = 'rare/1' WHERE id IN (2, 3, $((rows / 2)))" \
    -c "INSERT INTO reactor.failed_jobs (job_id, attempts, code, reason, claim) SELECT id, 1, 135, 'reason ' || id % 50, claim FROM jobs WHERE processed AND id % 101 = 0 LIMIT 100000" \
    -c "VACUUM ANALYZE jobs" -c "VACUUM ANALYZE reactor.failed_jobs"
  start
  id=$((rows / 2 / 100 * 100))
  printf '%s rows, three times each\n\n| page | ms | KB |\n|---|---|---|\n' "$rows"
  take "overview" /
  take "all jobs, the newest" /jobs
  n=0; while [ $((n += 1)) -le 30 ]; do curl -s -o "$dir/page" "$page$next"; next=$(sed -n 's/.*<a href="\([^"]*\)" rel="next">.*/\1/p' "$dir/page" | sed 's/&amp;/\&/g'); done
  take "all jobs, page 32" "$next"
  take "all jobs, halfway down" "/jobs?after=id$id"
  take "waiting" "/jobs?state=waiting"
  take "waiting, halfway through the day" "/jobs?state=waiting&from=%2B12h"
  take "due now" "/jobs?state=waiting&state=blocked&until=%2B0s"
  take "next minute" "/jobs?from=%2B0s&state=waiting&until=%2B1m"
  take "fired" "/jobs?state=fired"
  take "not published" "/jobs?state=failed&state=expired&state=missed"
  take "on their way" "/jobs?state=firing"
  take "a topic of one in a thousand" "/jobs?topic=bench/7/"
  take "a topic of three jobs, until it is broken off" "/jobs?topic=rare/"
  take "the same, of those that wait" "/jobs?topic=rare/&state=waiting"
  take "an hour, of all states" "/jobs?from=-2h&until=-1h"
  take "a key" "/jobs?key=key-$id"
  take "a job" "/jobs/$id"
  take "failed, by reason" /failed
  take "failed, by topic" "/failed?by=topic"
  take "failed, of a topic" "/failed?topic=bench/7"
  take "schedules" /schedules
}

./bin/reactor migrate up --database-url "$url" >/dev/null
case $what in
viewers) look_on ;;
rows) large ;;
*) echo "$usage" >&2; exit 2 ;;
esac
