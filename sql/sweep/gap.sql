-- Closes gaps that later events prove to be filled, and deletes closed ones.
--
-- Guarantees: only proven gaps are closed: what an export has, a rev or span of revs within the chain of commits known
-- to be applied (pipeline.repo), or a record of which a newer state or its deletion is applied. Bounded, so that a
-- backlog is swept in short transactions.

-- :proven
-- Looks at the next %(limit)s open gaps after the id %(after)s. Returns where to continue (null: at the end), the
-- proven ones, and their repositories.
-- - page: the gaps looked at.
-- - proven: those that are filled: by an export, or by the commits known to be applied.
WITH page AS MATERIALIZED (
  SELECT id, kind, did, from_text, to_text, ('at://' || did || '/' || from_text) COLLATE "default" AS uri
  FROM pipeline.gap
  WHERE id > %(after)s AND resolved_at IS NULL AND kind IN ('chain', 'sync', 'commit', 'record') AND to_text IS NOT NULL
  ORDER BY id
  LIMIT %(limit)s
), proven AS MATERIALIZED (
  SELECT p.id, p.did
  FROM page p
  LEFT JOIN LATERAL (
    SELECT r.chain_from, r.rev, r.export_rev FROM pipeline.repo r WHERE r.did = p.did OFFSET 0
  ) r ON true
  WHERE p.to_text <= r.export_rev OR CASE p.kind
    WHEN 'record' THEN
      EXISTS (SELECT FROM bsky.record r WHERE r.uri = p.uri AND r.rev >= p.to_text)
      OR EXISTS (SELECT FROM pipeline.tombstone t WHERE t.uri = p.uri AND t.rev >= p.to_text)
    WHEN 'commit' THEN p.to_text BETWEEN r.chain_from AND r.rev
    ELSE p.from_text >= r.chain_from AND p.to_text <= r.rev
  END
)
SELECT
  (SELECT max(id) FROM page),
  ARRAY(SELECT id FROM proven ORDER BY id),
  ARRAY(SELECT DISTINCT did FROM proven);

-- :close
-- Closes the gaps %(ids)s, whose repositories are locked.
UPDATE pipeline.gap SET resolved_at = now() WHERE id = ANY (%(ids)s) AND resolved_at IS NULL;

-- :close_of_stream
-- Closes the gap %(id)s of a stream.
UPDATE pipeline.gap SET resolved_at = now() WHERE id = %(id)s AND did IS NULL AND resolved_at IS NULL;

-- :due
-- Counts the gaps that were closed before %(before)s, up to %(cap)s.
SELECT count(*)
FROM (SELECT FROM pipeline.gap WHERE resolved_at < %(before)s LIMIT %(cap)s) due;

-- :due_open
-- Counts the open gaps of repositories that are looked at, up to %(cap)s.
SELECT count(*)
FROM (
  SELECT
  FROM pipeline.gap
  WHERE resolved_at IS NULL AND kind IN ('chain', 'sync', 'commit', 'record') AND to_text IS NOT NULL
  LIMIT %(cap)s
) due;

-- :sweep
-- Deletes at most %(limit)s gaps that were closed before %(before)s, oldest first. Returns how many, and whether there
-- may be more (an empty text; null: no).
WITH gone AS (
  DELETE FROM pipeline.gap
  WHERE id IN (
    SELECT id
    FROM pipeline.gap
    WHERE resolved_at < %(before)s
    ORDER BY resolved_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
  )
  RETURNING id
)
SELECT count(*), CASE WHEN count(*) >= %(limit)s THEN '' END FROM gone;
