-- Deletes reports of batches applied before %(before)s, oldest first, but never the first one of all: partitions begin
-- with its hour (report/first_applied.sql). Nor the newest one of a stream: it says since when events of it are
-- missing, where nothing has come for long (report/gaps.sql). Nor what is not counted yet (report/totals.sql).
--
-- Guarantees: only the plots need these rows; no table of the index and no cursor depends on them. At most %(limit)s
-- rows at a time; nobody updates them, so nobody is in the way.

-- :due
-- Counts the reports that may be deleted, up to %(cap)s.
SELECT count(*)
FROM (SELECT FROM pipeline.batch b WHERE b.applied_at < %(before)s LIMIT %(cap)s) b;

-- :sweep
-- Deletes reports. Returns how many, and whether there may be more (an empty text; null: no).
WITH gone AS (
  DELETE FROM pipeline.batch
  WHERE id IN (
    SELECT b.id
    FROM pipeline.batch b
    WHERE b.applied_at < least(%(before)s, (SELECT counted_to FROM pipeline.total_counted WHERE report = 'batch'))
      AND b.id > (SELECT min(id) FROM pipeline.batch)
      AND (
        b.relay_time IS NULL
        OR NOT starts_with(b.source, 'ws')
        OR EXISTS (
          SELECT
          FROM pipeline.batch n
          WHERE n.applied_at > b.applied_at
            AND n.source = b.source AND n.shard IS NOT DISTINCT FROM b.shard AND n.relay_time IS NOT NULL
          ORDER BY n.applied_at
          LIMIT 1
        )
      )
    ORDER BY b.applied_at
    LIMIT %(limit)s
  )
  RETURNING id
)
SELECT count(*), CASE WHEN count(*) >= %(limit)s THEN '' END FROM gone;
