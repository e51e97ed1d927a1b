-- The records of the collections named in %(collections)s (null: of every collection) that were applied from %(since)s
-- up to, not including, %(until)s and are still in their repository.
--
-- Guarantees: reads only.
SELECT
  count(*) AS records,
  count(DISTINCT did) AS repositories,
  max("indexedAt") AS newest
FROM bsky.record
WHERE "appliedAt" >= %(since)s
  AND "appliedAt" < %(until)s
  AND (%(collections)s::text[] IS NULL OR split_part(uri, '/', 4) = ANY(%(collections)s))
