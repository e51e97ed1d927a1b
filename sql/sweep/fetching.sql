-- Deletes at most %(limit)s reports of the fetch process from before %(before)s, oldest first.
--
-- Guarantees: only plots need them, and totals, which have counted them (report/totals.sql). Bounded: run it until it
-- deletes nothing.
DELETE FROM pipeline.fetch_batch
WHERE id IN (
  SELECT id
  FROM pipeline.fetch_batch
  WHERE finished_at < %(before)s
    AND finished_at < (SELECT counted_to FROM pipeline.total_counted WHERE report = 'fetch')
  ORDER BY id
  LIMIT %(limit)s
)
