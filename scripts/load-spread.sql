-- 20,000 jobs, spread evenly over the next minute:
--   psql "$REACTOR_DATABASE_URL" -f scripts/load-spread.sql
--   docker-compose exec -T postgres psql -U reactor -d reactor < scripts/load-spread.sql
INSERT INTO jobs (topic, payload, fire_at)
SELECT 'job/test/topic', '{"Job": "' || n || '"}', now() + n * interval '1 minute' / 20000
FROM generate_series(1, 20000) AS n;
