-- app.bsky.graph.listitem -> bsky.list_item.
--
-- Guarantees: one row per (list, subject), see duplicates.sql. Only the list's owner puts accounts on it
-- (indexing/collections/listitem.py). Items outlive their list.

-- :stage
-- The last state of every record that the batch creates or updates.
CREATE TEMPORARY TABLE stage_listitem (
  uri text NOT NULL,
  cid text NOT NULL,
  creator text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  subject_did text NOT NULL,
  list_uri text NOT NULL,
  created_at text NOT NULL,
  indexed_at text NOT NULL
) ON COMMIT DELETE ROWS;

-- :remove
-- Removes the rows of records that were edited, deleted or demoted, unless they are removed already.
DELETE FROM bsky.list_item i
WHERE i.uri = ANY (ARRAY(SELECT uri FROM touched WHERE change <> 'stale' AND NOT removed));

-- :add
-- Adds a row for the first staged record of each natural key; `added` lists the rows that were added.
WITH row AS (
  INSERT INTO bsky.list_item (uri, cid, creator, "subjectDid", "listUri", "createdAt", "indexedAt")
  SELECT DISTINCT ON (list_uri, subject_did)
    uri, cid, creator, subject_did, list_uri, created_at, indexed_at
  FROM stage_listitem
  ORDER BY list_uri, subject_did, rev, uri COLLATE "C"
  ON CONFLICT DO NOTHING
  RETURNING uri
)
INSERT INTO added (uri)
SELECT uri FROM row;

-- :misses
-- A query for pending.sql: the lists of staged items.
SELECT uri, 'list' AS kind, list_uri AS missing
FROM stage_listitem
WHERE split_part(list_uri, '/', 4) = '{nsid.list}'

-- :staged_relationship
-- A query for affected.sql: what the staged records state, as `kept_relationship` keeps it for past ones.
SELECT uri, rev, creator, list_uri || ' ' || subject_did AS relationship FROM stage_listitem

-- :kept_relationship
-- An expression for version.sql: the list and the member of a past list item.
(b.body ->> 'list') || ' ' || (b.body ->> 'subject')

-- :differs
-- Notes staged records whose row is missing or differs; a rerun repairs them.
INSERT INTO differing (uri, table_name)
SELECT s.uri, 'list_item'
FROM stage_listitem s
LEFT JOIN bsky.list_item l USING (uri)
WHERE (l.cid, l.creator, l."subjectDid", l."listUri", l."createdAt", l."indexedAt")
  IS DISTINCT FROM (s.cid, s.creator, s.subject_did, s.list_uri, s.created_at, s.indexed_at);
