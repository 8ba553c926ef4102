-- Undoes ordering.sql.
DROP FUNCTION IF EXISTS reactor.bind_ordering();
DROP FUNCTION IF EXISTS reactor.next_in_order(bigint[]);
DROP FUNCTION IF EXISTS reactor.waits_until(bigint, timestamptz, bigint);
DROP FUNCTION IF EXISTS reactor.is_outdated(bigint, timestamptz, bigint);
DROP FUNCTION IF EXISTS reactor.keys_to_return();
DROP FUNCTION IF EXISTS reactor.keys_in_flight();
