-- Deletes rows of pipeline.backfill_queue that were finished before %(before)s.
--
-- Guarantees: only those of repositories that are complete, which lists do not queue again; and something that is
-- missing adds the row again (sync_state.sql). Reads the table in the order of its key, %(limit)s rows after
-- %(position)s at a time; rows that others hold are skipped.

-- :due
-- Counts the rows that may be deleted, up to %(cap)s.
SELECT count(*)
FROM (
  SELECT
  FROM pipeline.backfill_queue q
  WHERE q.finished_at < %(before)s
    AND EXISTS (SELECT FROM pipeline.repo r WHERE r.did = q.did AND r.sync_state = 'synchronized' OFFSET 0)
  LIMIT %(cap)s
) due;

-- :sweep
-- Looks at the next rows. Returns how many were deleted, and where to go on (null: this was the end).
-- - page: the rows looked at.
-- - chosen: those of them that are deleted; gone: the same.
WITH page AS MATERIALIZED (
  SELECT did
  FROM pipeline.backfill_queue
  WHERE did > coalesce(%(position)s::jsonb ->> 0, '')
  ORDER BY did
  LIMIT %(limit)s
), chosen AS MATERIALIZED (
  SELECT q.did
  FROM pipeline.backfill_queue q
  JOIN page USING (did)
  WHERE q.finished_at < %(before)s
    AND EXISTS (SELECT FROM pipeline.repo r WHERE r.did = q.did AND r.sync_state = 'synchronized' OFFSET 0)
  FOR UPDATE OF q SKIP LOCKED
), gone AS (
  DELETE FROM pipeline.backfill_queue q USING chosen c WHERE q.did = c.did RETURNING q.did
)
SELECT
  (SELECT count(*) FROM gone),
  (SELECT jsonb_build_array(max(did))::text FROM page HAVING count(*) >= %(limit)s);
