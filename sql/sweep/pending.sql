-- Deletes rows of pipeline.pending that expired before %(before)s.
--
-- Guarantees: only rows that no evaluation waits for; those of replies stay until the parent arrives. Looks at
-- %(limit)s rows after %(uri)s, %(kind)s, %(missing)s, in this order: run it until it returns nothing. (No index finds
-- expired rows: it would cost every batch more than this costs now and then.)
-- Returns the last row looked at, and how many were deleted.
-- - page: the rows looked at.
-- - chosen: those of them that are deleted; expired: the same.
WITH page AS MATERIALIZED (
  SELECT uri, kind, missing, expires_at
  FROM pipeline.pending
  WHERE (uri, kind, missing) > (%(uri)s, %(kind)s, %(missing)s)
  ORDER BY uri, kind, missing
  LIMIT %(limit)s
), chosen AS MATERIALIZED (
  SELECT p.uri, p.kind, p.missing
  FROM pipeline.pending p
  JOIN page USING (uri, kind, missing)
  WHERE p.kind <> 'reply' AND p.expires_at < %(before)s
  FOR UPDATE OF p SKIP LOCKED
), expired AS (
  DELETE FROM pipeline.pending p
  USING chosen c
  WHERE (p.uri, p.kind, p.missing) = (c.uri, c.kind, c.missing)
  RETURNING 1
)
SELECT l.uri, l.kind, l.missing, (SELECT count(*) FROM expired)
FROM (SELECT uri, kind, missing FROM page ORDER BY uri DESC, kind DESC, missing DESC LIMIT 1) l;
