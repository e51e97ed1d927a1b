-- Deletes dead letters first seen before %(before)s, oldest first, and counts of the overflow and of days.
--
-- Guarantees: nothing of the index depends on them. At most %(limit)s rows at a time; letters that a retry holds are
-- skipped.

-- :due
-- Counts the dead letters that may be deleted, up to %(cap)s.
SELECT count(*)
FROM (SELECT FROM pipeline.dead_letter WHERE first_seen < %(before)s LIMIT %(cap)s) due;

-- :sweep
-- Deletes dead letters, with their bytes. Returns how many, and whether there may be more (an empty text; null: no).
WITH gone AS (
  DELETE FROM pipeline.dead_letter
  WHERE id IN (
    SELECT id
    FROM pipeline.dead_letter
    WHERE first_seen < %(before)s
    ORDER BY first_seen
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
  )
  RETURNING id
)
SELECT count(*), CASE WHEN count(*) >= %(limit)s THEN '' END FROM gone;

-- :due_overflow
-- Counts the rows of dead_letter_overflow and dead_letter_day that may be deleted, up to %(cap)s each.
SELECT
  (SELECT count(*) FROM (SELECT FROM pipeline.dead_letter_overflow WHERE minute < %(before)s LIMIT %(cap)s) due)
  + (SELECT count(*) FROM pipeline.dead_letter_day WHERE day < %(before)s::timestamptz::date);

-- :sweep_overflow
-- Deletes counts of dead letters that were not stored, and of what was stored by day. Returns how many, and whether
-- there may be more.
-- - days: the rows of dead_letter_day.
WITH gone AS (
  DELETE FROM pipeline.dead_letter_overflow
  WHERE (kind, minute) IN (
    SELECT kind, minute
    FROM pipeline.dead_letter_overflow
    WHERE minute < %(before)s
    ORDER BY minute
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
  )
  RETURNING kind
), days AS (
  DELETE FROM pipeline.dead_letter_day
  WHERE (kind, day) IN (
    SELECT kind, day
    FROM pipeline.dead_letter_day
    WHERE day < %(before)s::timestamptz::date
    ORDER BY day
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
  )
  RETURNING kind
), both_tables AS (
  SELECT kind FROM gone UNION ALL SELECT kind FROM days
)
SELECT count(*), CASE WHEN count(*) >= %(limit)s THEN '' END FROM both_tables;
