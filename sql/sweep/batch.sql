-- Deletes at most %(limit)s batches applied before %(before)s, oldest first.
--
-- Guarantees: only what the plots are made of is deleted; no table of the index and no cursor depends on it. Bounded, so
-- that a backlog is swept in short transactions: run it until it deletes nothing.
DELETE FROM pipeline.batch
WHERE id IN (SELECT id FROM pipeline.batch WHERE applied_at < %(before)s ORDER BY applied_at LIMIT %(limit)s)
