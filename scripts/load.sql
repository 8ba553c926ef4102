-- 20,000 jobs, due at once:
--   psql "$REACTOR_DATABASE_URL" -f scripts/load.sql
--   docker-compose exec -T postgres psql -U reactor -d reactor < scripts/load.sql
INSERT INTO jobs (topic, payload, fire_at, processed, processed_at)
SELECT 'job/test/topic', '{"Job": "' || x.test_data || '"}', now(), false, null
FROM generate_series(1,20000) AS x(test_data);
