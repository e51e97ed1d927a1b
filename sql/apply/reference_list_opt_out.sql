-- app.bsky.graph.referencelistoptout -> bsky.reference_list_opt_out.
--
-- Guarantees: one row per (creator, list), see duplicates.sql. A record whose subject is not a list is only in
-- bsky.record.

-- :stage
-- The last state of every record that the batch creates or updates.
CREATE TEMPORARY TABLE stage_reference_list_opt_out (
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
DELETE FROM bsky.reference_list_opt_out o
WHERE o.uri = ANY (ARRAY(SELECT uri FROM touched WHERE change <> 'stale' AND NOT removed));

-- :add
-- Adds a row for the first staged record of each natural key; `added` lists the rows that were added.
WITH row AS (
  INSERT INTO bsky.reference_list_opt_out (uri, cid, creator, "subjectUri", "createdAt", "indexedAt")
  SELECT DISTINCT ON (creator, subject_uri)
    uri, cid, creator, subject_uri, created_at, indexed_at
  FROM stage_reference_list_opt_out
  ORDER BY creator, subject_uri, rev, uri COLLATE "C"
  ON CONFLICT DO NOTHING
  RETURNING uri
)
INSERT INTO added (uri)
SELECT uri FROM row;

-- :differs
-- Notes staged records whose row is missing or differs; a rerun repairs them.
INSERT INTO differing (uri, table_name)
SELECT s.uri, 'reference_list_opt_out'
FROM stage_reference_list_opt_out s
LEFT JOIN bsky.reference_list_opt_out l USING (uri)
WHERE (l.cid, l.creator, l."subjectUri", l."createdAt", l."indexedAt")
  IS DISTINCT FROM (s.cid, s.creator, s.subject_uri, s.created_at, s.indexed_at);
