-- Undoes ordering.sql.
DROP FUNCTION IF EXISTS reactor.waits_until(text, timestamptz, bigint);
