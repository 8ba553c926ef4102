-- The claim of version 5, as the program sent it.

WITH lease AS MATERIALIZED (
    SELECT FROM reactor.lanes WHERE lane = $1 AND owner = $2 AND epoch = $3 FOR SHARE
), due AS MATERIALIZED (
    SELECT tableoid AS part, ctid AS place, id, fire_at AS at, claim AS before, octet_length(topic) + octet_length(payload) AS bytes
      FROM ONLY "public"."jobs"
     WHERE id = ANY ($4::bigint[]) AND coalesce(NOT processed, false)
       AND fire_at <= (SELECT clock_timestamp() + $5::interval)
       AND shard = ANY (coalesce($6::smallint[], ARRAY(SELECT shard FROM reactor.shards WHERE owner = $2)))
       AND EXISTS (SELECT FROM lease)
     ORDER BY id
       FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE ONLY "public"."jobs" AS job SET processed = true, processed_at = greatest(fire_at, clock_timestamp()), claim = $7
     WHERE ctid = ANY (CASE
               WHEN (SELECT sum(bytes) FROM due) <= $11 THEN ARRAY(SELECT place FROM due)
               ELSE ARRAY(SELECT place FROM (SELECT place, sum(bytes) OVER (ORDER BY id) - bytes AS ahead FROM due) AS running WHERE ahead < $11)
           END)
    RETURNING CASE WHEN processed AND claim = $7 THEN job.id ELSE ('a trigger takes the claim back, of job ' || job.id)::bigint END AS id, topic, payload, fire_at, expires_at, (expires_at IS NOT NULL OR octet_length(payload) > 65536) AS apart
), carried AS (
    UPDATE reactor.retries r SET claim = $7
     WHERE job_id = ANY (CASE WHEN (SELECT CASE WHEN pg_relation_size('reactor.retries') > 262144 THEN true ELSE EXISTS (SELECT FROM reactor.retries) END) THEN ARRAY(SELECT id FROM claimed) ELSE '{}' END)
       AND (r.claim IS NULL OR (job_id, r.claim) IN (SELECT id, before FROM due WHERE before IS NOT NULL))
), revived AS (
    DELETE FROM reactor.failed_jobs
     WHERE job_id = ANY (CASE WHEN (SELECT CASE WHEN pg_relation_size('reactor.failed_jobs') > 262144 THEN true ELSE EXISTS (SELECT FROM reactor.failed_jobs) END) THEN ARRAY(SELECT id FROM claimed) ELSE '{}' END)
), journalled AS (
    INSERT INTO reactor.in_flight (lane, epoch, token, qos, first_slot, reach, job_ids, due_by)
    SELECT $1, $3, $7, $8, $9, $10, array_agg(id ORDER BY fire_at, apart, id), max(fire_at) FROM claimed HAVING count(*) > 0
    RETURNING batch
), lowered AS (
    DELETE FROM reactor.journal_starts WHERE lane = $1 AND batch > (SELECT batch FROM journalled)
)
SELECT batch, id, topic, payload, fire_at, expires_at, clock_timestamp() FROM journalled, claimed ORDER BY fire_at, apart, id