-- Closes gaps that what came since proves to be none, and deletes closed ones.
--
-- Guarantees: only what is proven is closed: a rev or span of revs within the chain of commits known to be applied
-- (pipeline.repo), or a record of which a newer state or its deletion is applied. Bounded: `proven` looks at the next %(limit)s open gaps after
-- the id %(after)s and says where to go on (null: at the end), `closed` deletes at most %(limit)s.

-- :proven
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
DELETE FROM pipeline.gap
WHERE id IN (SELECT id FROM pipeline.gap WHERE resolved_at < %(before)s ORDER BY resolved_at LIMIT %(limit)s);
