-- Deletes identities of accounts of which nothing else is known, and that nobody has asked for since %(before)s.
--
-- Guarantees: an account stays that has a repository or is indexed, that is queued to be resolved or fetched, whose
-- labels are read, or that a PLC export brought: exports are loaded for accounts that come later. What is deleted is
-- resolved again when it is asked for. Reads the table in the order of its key, %(limit)s rows after %(position)s at a
-- time; rows that resolution holds are skipped.

-- :due
-- Counts the identities that may be deleted, up to %(cap)s.
SELECT count(*)
FROM (
  SELECT
  FROM pipeline.identity i
  WHERE i.queue IS NULL
    AND i.source IS DISTINCT FROM 'import'
    AND coalesce(greatest(i.asked_at, i.event_at), i.resolved_at) < %(before)s
    AND NOT EXISTS (SELECT FROM pipeline.repo r WHERE r.did = i.did OFFSET 0)
    AND NOT EXISTS (SELECT FROM bsky.actor a WHERE a.did = i.did OFFSET 0)
    AND NOT EXISTS (SELECT FROM pipeline.labeler l WHERE l.did = i.did OFFSET 0)
    AND NOT EXISTS (SELECT FROM pipeline.backfill_queue q WHERE q.did = i.did OFFSET 0)
  LIMIT %(cap)s
) due;

-- :sweep
-- Looks at the next rows. Returns how many were deleted, and where to go on (null: this was the end).
-- - page: the rows looked at.
-- - chosen: those of them that are deleted; gone: the same.
WITH page AS MATERIALIZED (
  SELECT did
  FROM pipeline.identity
  WHERE did > coalesce(%(position)s::jsonb ->> 0, '')
  ORDER BY did
  LIMIT %(limit)s
), chosen AS MATERIALIZED (
  SELECT i.did
  FROM pipeline.identity i
  JOIN page USING (did)
  WHERE i.queue IS NULL
    AND i.source IS DISTINCT FROM 'import'
    AND coalesce(greatest(i.asked_at, i.event_at), i.resolved_at) < %(before)s
    AND NOT EXISTS (SELECT FROM pipeline.repo r WHERE r.did = i.did OFFSET 0)
    AND NOT EXISTS (SELECT FROM bsky.actor a WHERE a.did = i.did OFFSET 0)
    AND NOT EXISTS (SELECT FROM pipeline.labeler l WHERE l.did = i.did OFFSET 0)
    AND NOT EXISTS (SELECT FROM pipeline.backfill_queue q WHERE q.did = i.did OFFSET 0)
  FOR UPDATE OF i SKIP LOCKED
), gone AS (
  DELETE FROM pipeline.identity i USING chosen c WHERE i.did = c.did RETURNING i.did
)
SELECT
  (SELECT count(*) FROM gone),
  (SELECT jsonb_build_array(max(did))::text FROM page HAVING count(*) >= %(limit)s);
