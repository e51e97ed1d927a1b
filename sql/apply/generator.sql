-- app.bsky.feed.generator -> bsky.feed_generator.
--
-- Guarantees: one row per record, its newest state. Its likes are counted in post_agg under the generator's URI.

-- :stage
-- The last state of every record that the batch creates or updates.
CREATE TEMPORARY TABLE stage_generator (
  uri text NOT NULL,
  cid text NOT NULL,
  creator text NOT NULL,
  feed_did text NOT NULL,
  display_name text,
  description text,
  description_facets text,
  avatar_cid text,
  created_at text NOT NULL,
  indexed_at text NOT NULL
) ON COMMIT DELETE ROWS;

-- :remove
-- Removes the rows of records that were edited or deleted.
DELETE FROM bsky.feed_generator g
WHERE g.uri = ANY (ARRAY(SELECT uri FROM touched WHERE change <> 'stale'));

-- :add
-- Adds the rows of staged records.
INSERT INTO bsky.feed_generator
  (uri, cid, creator, "feedDid", "displayName", description, "descriptionFacets", "avatarCid", "createdAt", "indexedAt")
SELECT uri, cid, creator, feed_did, display_name, description, description_facets, avatar_cid, created_at, indexed_at
FROM stage_generator
ORDER BY uri
ON CONFLICT (uri) DO NOTHING;

-- :differs
-- Notes staged records whose row is missing or differs; a rerun repairs them.
INSERT INTO differing (uri, table_name)
SELECT s.uri, 'feed_generator'
FROM stage_generator s
LEFT JOIN bsky.feed_generator l USING (uri)
WHERE (l.cid, l.creator, l."feedDid", l."displayName", l.description, l."descriptionFacets", l."avatarCid",
    l."createdAt", l."indexedAt")
  IS DISTINCT FROM (s.cid, s.creator, s.feed_did, s.display_name, s.description, s.description_facets, s.avatar_cid,
    s.created_at, s.indexed_at);
