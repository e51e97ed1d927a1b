-- Deletes at most %(limit)s reports of batches applied before %(before)s, oldest first, but never the first one of all:
-- partitions begin with its hour (report/first_applied.sql).
--
-- Guarantees: only the plots need these rows; no table of the index and no cursor depends on them. Bounded, so that a
-- backlog is swept in short transactions: run it until it deletes nothing.
DELETE FROM pipeline.batch
WHERE id IN (
  SELECT id
  FROM pipeline.batch
  WHERE applied_at < %(before)s AND id > (SELECT min(id) FROM pipeline.batch)
  ORDER BY applied_at
  LIMIT %(limit)s
)
