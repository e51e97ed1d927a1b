-- Closes gaps that later events prove to be filled, and deletes closed ones.
--
-- Guarantees: only proven gaps are closed: a rev or span of revs within the chain of commits known to be applied
-- (pipeline.repo), or a record of which a newer state or its deletion is applied. Bounded, so that a backlog is swept
-- in short transactions.

-- :proven
-- Looks at the next %(limit)s open gaps after the id %(after)s and closes those that are proven. Returns where to
-- continue (null: at the end), and how many were closed.
-- - page: the gaps looked at.
-- - closed: those that are proven.
WITH page AS MATERIALIZED (
  SELECT id, kind, did, from_text, to_text, ('at://' || did || '/' || from_text) COLLATE "default" AS uri
  FROM pipeline.gap
  WHERE id > %(after)s AND resolved_at IS NULL AND kind IN ('chain', 'sync', 'commit', 'record') AND to_text IS NOT NULL
  ORDER BY id
  LIMIT %(limit)s
), closed AS (
  UPDATE pipeline.gap g SET resolved_at = now()
  FROM page p
  WHERE g.id = p.id AND g.resolved_at IS NULL AND CASE p.kind
    WHEN 'record' THEN
      EXISTS (SELECT FROM bsky.record r WHERE r.uri = p.uri AND r.rev >= p.to_text)
      OR EXISTS (SELECT FROM pipeline.tombstone t WHERE t.uri = p.uri AND t.rev >= p.to_text)
    WHEN 'commit' THEN EXISTS (
      SELECT FROM pipeline.repo r WHERE r.did = p.did AND p.to_text BETWEEN r.chain_from AND r.rev
    )
    ELSE EXISTS (
      SELECT FROM pipeline.repo r WHERE r.did = p.did AND p.from_text >= r.chain_from AND p.to_text <= r.rev
    )
  END
  RETURNING g.id
)
SELECT (SELECT max(id) FROM page), (SELECT count(*) FROM closed);

-- :closed
-- Deletes at most %(limit)s gaps that were closed before %(before)s, oldest first.
DELETE FROM pipeline.gap
WHERE id IN (SELECT id FROM pipeline.gap WHERE resolved_at < %(before)s ORDER BY resolved_at LIMIT %(limit)s);
