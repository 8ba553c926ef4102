-- Undoes functions.sql.
DROP FUNCTION IF EXISTS
    reactor.schedule(text, text, timestamptz, text, timestamptz, bytea, integer, boolean, text, text, bytea, jsonb, text),
    reactor.cancel(bigint), reactor.cancel(text), reactor.cancel_topic(text), reactor.cancel_job(bigint, text),
    reactor.reschedule(bigint, timestamptz), reactor.reschedule(text, timestamptz), reactor.fire_now(bigint), reactor.fire_now(text),
    reactor.move_job(bigint, text, timestamptz, text), reactor.retry(bigint, timestamptz),
    reactor.insert_jobs(json), reactor.make_due(bigint, timestamptz, text, timestamptz, boolean, timestamptz, text), reactor.lock_key(text), reactor.keys_are_unique(),
    reactor.why_not(text), reactor.find_job(bigint, text);
