-- app.bsky.graph.starterpack -> bsky.starter_pack.
--
-- Guarantees: one row per record, its newest state. Profiles say who joined by it (profile.sql).

-- :stage
-- The last state of every record that the batch creates or updates.
CREATE TEMPORARY TABLE stage_starterpack (
  uri text NOT NULL,
  cid text NOT NULL,
  creator text NOT NULL,
  name text,
  list text,
  created_at text NOT NULL,
  indexed_at text NOT NULL
) ON COMMIT DELETE ROWS;

-- :remove
-- Removes the rows of records that were edited or deleted.
DELETE FROM bsky.starter_pack p
WHERE p.uri = ANY (ARRAY(SELECT uri FROM touched WHERE change <> 'stale'));

-- :add
-- Adds the rows of staged records.
INSERT INTO bsky.starter_pack (uri, cid, creator, name, "createdAt", "indexedAt")
SELECT uri, cid, creator, name, created_at, indexed_at
FROM stage_starterpack
ORDER BY uri
ON CONFLICT (uri) DO NOTHING;

-- :misses
-- A query for pending.sql: the lists of staged packs.
SELECT uri, 'list' AS kind, list AS missing FROM stage_starterpack WHERE split_part(list, '/', 4) = '{nsid.list}'

-- :differs
-- Notes staged records whose row is missing or differs; a rerun repairs them.
INSERT INTO differing (uri, table_name)
SELECT s.uri, 'starter_pack'
FROM stage_starterpack s
LEFT JOIN bsky.starter_pack l USING (uri)
WHERE (l.cid, l.creator, l.name, l."createdAt", l."indexedAt")
  IS DISTINCT FROM (s.cid, s.creator, s.name, s.created_at, s.indexed_at);
