-- Deletes at most %(limit)s reports of batches applied before %(before)s, oldest first, but never the first one of all:
-- partitions begin with its hour (report/first_applied.sql). Nor the newest one of a stream: it says since when events
-- of it are missing, where nothing has come for long (report/gaps.sql). Nor what is not counted yet
-- (report/totals.sql).
--
-- Guarantees: only the plots need these rows; no table of the index and no cursor depends on them. Bounded, so that a
-- backlog is swept in short transactions: run it until it deletes nothing.
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
