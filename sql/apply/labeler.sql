-- app.bsky.labeler.service -> bsky.labeler.
--
-- Guarantees: one row per account that offers labels, by its record `self` (indexing/collections/labeler.py), in its
-- newest state.

-- :stage
-- The last state of every record that the batch creates or updates.
CREATE TEMPORARY TABLE stage_labeler (
  uri text NOT NULL,
  cid text NOT NULL,
  creator text NOT NULL,
  created_at text NOT NULL,
  indexed_at text NOT NULL
) ON COMMIT DELETE ROWS;

-- :remove
-- Removes the rows of records that were edited or deleted.
DELETE FROM bsky.labeler l
WHERE l.uri = ANY (ARRAY(SELECT uri FROM touched WHERE change <> 'stale'));

-- :add
-- Adds the rows of staged records.
INSERT INTO bsky.labeler (uri, cid, creator, "createdAt", "indexedAt")
SELECT uri, cid, creator, created_at, indexed_at
FROM stage_labeler
ORDER BY uri
ON CONFLICT (uri) DO NOTHING;

-- :differs
-- Notes staged records whose row is missing or differs; a rerun repairs them.
INSERT INTO differing (uri, table_name)
SELECT s.uri, 'labeler'
FROM stage_labeler s
LEFT JOIN bsky.labeler l USING (uri)
WHERE (l.cid, l.creator, l."createdAt", l."indexedAt")
  IS DISTINCT FROM (s.cid, s.creator, s.created_at, s.indexed_at);
