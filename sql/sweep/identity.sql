-- Deletes at most %(limit)s reports of the identity process from before %(before)s, oldest first; and servers whose row
-- has not changed since.
--
-- Guarantees: only plots need them, and totals, which have counted them (report/totals.sql). Bounded: run it until it
-- deletes nothing.

-- :batches
-- Deletes reports of the identity process.
DELETE FROM pipeline.identity_batch
WHERE id IN (
  SELECT id
  FROM pipeline.identity_batch
  WHERE finished_at < %(before)s
    AND finished_at < (SELECT counted_to FROM pipeline.total_counted WHERE report = 'identity')
  ORDER BY id
  LIMIT %(limit)s
);

-- :upstreams
-- Deletes servers.
DELETE FROM pipeline.upstream
WHERE host IN (SELECT host FROM pipeline.upstream WHERE updated_at < %(before)s ORDER BY updated_at LIMIT %(limit)s);
