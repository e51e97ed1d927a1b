-- app.bsky.graph.block -> bsky.actor_block.
--
-- Guarantees: one row per (creator, subject), see duplicates.sql.

-- :stage
-- The last state of every record that the batch creates or updates.
CREATE TEMPORARY TABLE stage_block (
  uri text NOT NULL,
  cid text NOT NULL,
  creator text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  subject_did text NOT NULL,
  created_at text NOT NULL,
  indexed_at text NOT NULL
) ON COMMIT DELETE ROWS;

-- :remove
-- Removes the rows of records that were edited, deleted or demoted, unless they are removed already.
DELETE FROM bsky.actor_block b
WHERE b.uri = ANY (ARRAY(SELECT uri FROM touched WHERE change <> 'stale' AND NOT removed));

-- :add
-- Adds a row for the first staged record of each natural key; `added` lists the rows that were added.
WITH row AS (
  INSERT INTO bsky.actor_block (uri, cid, creator, "subjectDid", "createdAt", "indexedAt")
  SELECT DISTINCT ON (creator, subject_did)
    uri, cid, creator, subject_did, created_at, indexed_at
  FROM stage_block
  ORDER BY creator, subject_did, rev, uri COLLATE "C"
  ON CONFLICT DO NOTHING
  RETURNING uri
)
INSERT INTO added (uri)
SELECT uri FROM row;

-- :differs
-- Notes staged records whose row is missing or differs; a rerun repairs them.
INSERT INTO differing (uri, table_name)
SELECT s.uri, 'actor_block'
FROM stage_block s
LEFT JOIN bsky.actor_block l USING (uri)
WHERE (l.cid, l.creator, l."subjectDid", l."createdAt", l."indexedAt")
  IS DISTINCT FROM (s.cid, s.creator, s.subject_did, s.created_at, s.indexed_at);
