-- Deletes servers whose row has not changed from before %(before)s, oldest first.
--
-- Guarantees: only plots need them; a server that fails again has a row again. At most %(limit)s rows at a
-- time; rows that others hold are skipped.

-- :due
-- Counts the rows that may be deleted, up to %(cap)s.
SELECT count(*)
FROM (SELECT FROM pipeline.upstream WHERE updated_at < %(before)s LIMIT %(cap)s) due;

-- :sweep
-- Deletes rows. Returns how many, and whether there may be more (an empty text; null: no).
WITH gone AS (
  DELETE FROM pipeline.upstream
  WHERE host IN (
    SELECT host
    FROM pipeline.upstream
    WHERE updated_at < %(before)s
    ORDER BY updated_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
  )
  RETURNING host
)
SELECT count(*), CASE WHEN count(*) >= %(limit)s THEN '' END FROM gone;
