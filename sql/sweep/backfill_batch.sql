-- Deletes reports of processes that fetch repositories from before %(before)s, oldest first.
--
-- Guarantees: only plots and checks need them, and totals, which have counted them (report/totals.sql). At most
-- %(limit)s rows at a time; rows that others hold are skipped.

-- :due
-- Counts the rows that may be deleted, up to %(cap)s.
SELECT count(*)
FROM (SELECT FROM pipeline.backfill_batch WHERE ended_at < %(before)s LIMIT %(cap)s) due;

-- :sweep
-- Deletes rows. Returns how many, and whether there may be more (an empty text; null: no).
WITH gone AS (
  DELETE FROM pipeline.backfill_batch
  WHERE id IN (
    SELECT id
    FROM pipeline.backfill_batch
    WHERE ended_at < least(%(before)s, (SELECT counted_to FROM pipeline.total_counted WHERE report = 'backfill'))
    ORDER BY ended_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
  )
  RETURNING id
)
SELECT count(*), CASE WHEN count(*) >= %(limit)s THEN '' END FROM gone;
