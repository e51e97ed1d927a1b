-- app.bsky.graph.listblock -> bsky.list_block.
--
-- Guarantees: one row per (creator, list), see duplicates.sql.

-- :stage
-- The last state of every record that the batch creates or updates.
CREATE TEMPORARY TABLE stage_listblock (
  uri text NOT NULL,
  cid text NOT NULL,
  creator text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  subject_uri text NOT NULL,
  created_at text NOT NULL,
  indexed_at text NOT NULL
) ON COMMIT DELETE ROWS;

-- :remove
-- Removes the rows of records that were edited, deleted or demoted, unless they are removed already.
DELETE FROM bsky.list_block b
WHERE b.uri = ANY (ARRAY(SELECT uri FROM touched WHERE change <> 'stale' AND NOT removed));

-- :add
-- Adds a row for the first staged record of each natural key; `added` lists the rows that were added.
WITH row AS (
  INSERT INTO bsky.list_block (uri, cid, creator, "subjectUri", "createdAt", "indexedAt")
  SELECT DISTINCT ON (creator, subject_uri)
    uri, cid, creator, subject_uri, created_at, indexed_at
  FROM stage_listblock
  ORDER BY creator, subject_uri, rev, uri COLLATE "C"
  ON CONFLICT DO NOTHING
  RETURNING uri
)
INSERT INTO added (uri)
SELECT uri FROM row;

-- :misses
-- A query for pending.sql: the lists that are blocked.
SELECT uri, 'list' AS kind, subject_uri AS missing
FROM stage_listblock
WHERE split_part(subject_uri, '/', 4) = '{nsid.list}'

-- :differs
-- Notes staged records whose row is missing or differs; a rerun repairs them.
INSERT INTO differing (uri, table_name)
SELECT s.uri, 'list_block'
FROM stage_listblock s
LEFT JOIN bsky.list_block l USING (uri)
WHERE (l.cid, l.creator, l."subjectUri", l."createdAt", l."indexedAt")
  IS DISTINCT FROM (s.cid, s.creator, s.subject_uri, s.created_at, s.indexed_at);
