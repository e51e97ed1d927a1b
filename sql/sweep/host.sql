-- Deletes hosts of which nothing was seen since %(before)s: strangers name new ones all the time.
--
-- Guarantees: a host that is listed, fetched from or fails again has a row again; nothing but its pauses is forgotten.
-- Reads the table, which has some thousand rows, once. At most %(limit)s rows at a time; rows that others hold are
-- skipped.

-- :due
-- Counts the hosts that may be deleted, up to %(cap)s.
SELECT count(*)
FROM (
  SELECT
  FROM pipeline.pds_host
  WHERE greatest(found_at, seen_at, failed_at, delivered_at, listed_at, parked_until) < %(before)s
  LIMIT %(cap)s
) due;

-- :sweep
-- Deletes hosts. Returns how many, and whether there may be more (an empty text; null: no).
WITH gone AS (
  DELETE FROM pipeline.pds_host
  WHERE host IN (
    SELECT host
    FROM pipeline.pds_host
    WHERE greatest(found_at, seen_at, failed_at, delivered_at, listed_at, parked_until) < %(before)s
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
  )
  RETURNING host
)
SELECT count(*), CASE WHEN count(*) >= %(limit)s THEN '' END FROM gone;
