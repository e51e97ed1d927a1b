-- Deletes sizes of tables that were measured before %(before)s, oldest first.
--
-- Guarantees: only plots and the check of growth need them. At most %(limit)s rows at a time.

-- :due
-- Counts the rows that may be deleted, up to %(cap)s.
SELECT count(*)
FROM (SELECT FROM pipeline.table_size WHERE hour < %(before)s LIMIT %(cap)s) due;

-- :sweep
-- Deletes rows. Returns how many, and whether there may be more (an empty text; null: no).
WITH gone AS (
  DELETE FROM pipeline.table_size
  WHERE (hour, table_name) IN (
    SELECT hour, table_name
    FROM pipeline.table_size
    WHERE hour < %(before)s
    ORDER BY hour
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
  )
  RETURNING hour
)
SELECT count(*), CASE WHEN count(*) >= %(limit)s THEN '' END FROM gone;
