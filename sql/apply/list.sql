-- app.bsky.graph.list -> bsky.list.
--
-- Guarantees: one row per record, its newest state. Who is on the list is told by its items (listitem.sql).

-- :stage
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
DELETE FROM bsky.list l
USING touched t
WHERE l.uri = t.uri AND t.change <> 'stale';

-- :add
INSERT INTO bsky.list
  (uri, cid, creator, name, purpose, description, "descriptionFacets", "avatarCid", "createdAt", "indexedAt")
SELECT uri, cid, creator, name, purpose, description, description_facets, avatar_cid, created_at, indexed_at
FROM stage_list
ORDER BY uri
ON CONFLICT (uri) DO NOTHING;
