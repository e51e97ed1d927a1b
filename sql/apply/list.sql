-- app.bsky.graph.list -> bsky.list.
--
-- Guarantees: one row per record, its newest state. The list's members are its items (listitem.sql).

-- :stage
-- The last state of every record that the batch creates or updates.
CREATE TEMPORARY TABLE stage_list (
  uri text NOT NULL,
  cid text NOT NULL,
  creator text NOT NULL,
  name text NOT NULL,
  purpose text NOT NULL,
  description text,
  description_facets text,
  avatar_cid text,
  created_at text NOT NULL,
  indexed_at text NOT NULL
) ON COMMIT DELETE ROWS;

-- :remove
-- Removes the rows of records that were edited or deleted.
DELETE FROM bsky.list l
WHERE l.uri = ANY (ARRAY(SELECT uri FROM touched WHERE change <> 'stale'));

-- :add
-- Adds the rows of staged records.
INSERT INTO bsky.list
  (uri, cid, creator, name, purpose, description, "descriptionFacets", "avatarCid", "createdAt", "indexedAt")
SELECT uri, cid, creator, name, purpose, description, description_facets, avatar_cid, created_at, indexed_at
FROM stage_list
ORDER BY uri
ON CONFLICT (uri) DO NOTHING;

-- :differs
-- Notes staged records whose row is missing or differs; a rerun repairs them.
INSERT INTO differing (uri, table_name)
SELECT s.uri, 'list'
FROM stage_list s
LEFT JOIN bsky.list l USING (uri)
WHERE (l.cid, l.creator, l.name, l.purpose, l.description, l."descriptionFacets", l."avatarCid", l."createdAt",
    l."indexedAt")
  IS DISTINCT FROM (s.cid, s.creator, s.name, s.purpose, s.description, s.description_facets, s.avatar_cid,
    s.created_at, s.indexed_at);
