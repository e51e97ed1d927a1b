-- Deletes rows of pipeline.pending that were added before %(before)s and whose record is not fetched any more.
--
-- Guarantees: only rows that no evaluation waits for; those of replies stay until the parent arrives. Reads the table
-- in the order of its key, %(limit)s rows after %(position)s at a time. (No index finds expired rows: it would cost
-- every batch more than this costs now and then.) Rows that a batch or the fetch process holds are skipped.

-- :due
-- Counts the rows that may be deleted, up to %(cap)s.
SELECT count(*)
FROM (
  SELECT
  FROM pipeline.pending
  WHERE kind <> 'reply' AND since < %(before)s AND expires_at <= now()
  LIMIT %(cap)s
) due;

-- :sweep
-- Looks at the next rows. Returns how many were deleted, and where to go on (null: this was the end).
-- - page: the rows looked at; `last`: the last one.
-- - chosen: those of them that are deleted; expired: the same.
WITH page AS MATERIALIZED (
  SELECT uri, kind, missing, since, expires_at
  FROM pipeline.pending
  WHERE (uri, kind, missing) > (
    coalesce(%(position)s::jsonb ->> 0, ''),
    coalesce(%(position)s::jsonb ->> 1, ''),
    coalesce(%(position)s::jsonb ->> 2, '')
  )
  ORDER BY uri, kind, missing
  LIMIT %(limit)s
), last AS (
  SELECT uri, kind, missing FROM page ORDER BY uri DESC, kind DESC, missing DESC LIMIT 1
), chosen AS MATERIALIZED (
  SELECT p.uri, p.kind, p.missing
  FROM pipeline.pending p
  JOIN page USING (uri, kind, missing)
  WHERE p.kind <> 'reply' AND p.since < %(before)s AND p.expires_at <= now()
  FOR UPDATE OF p SKIP LOCKED
), expired AS (
  DELETE FROM pipeline.pending p
  USING chosen c
  WHERE (p.uri, p.kind, p.missing) = (c.uri, c.kind, c.missing)
  RETURNING p.uri
)
SELECT
  (SELECT count(*) FROM expired),
  (
    SELECT jsonb_build_array(l.uri, l.kind, l.missing)::text
    FROM last l
    WHERE (SELECT count(*) FROM page) >= %(limit)s
  );
