-- app.bsky.feed.threadgate -> bsky.thread_gate, post."hasThreadGate".
--
-- Guarantees: one row per post, by the post's author and under its record key (indexing/collections/threadgate.py). The
-- post's flag is right whichever of the two comes first (the other half is in post.sql).

-- :stage
-- The last state of every record that the batch creates or updates.
CREATE TEMPORARY TABLE stage_threadgate (
  uri text NOT NULL,
  cid text NOT NULL,
  creator text NOT NULL,
  post_uri text NOT NULL,
  lists jsonb,                           -- array of the lists that its rules name
  created_at text NOT NULL,
  indexed_at text NOT NULL
) ON COMMIT DELETE ROWS;

-- :remove
-- Removes the rows of records that were edited or deleted.
DELETE FROM bsky.thread_gate g
WHERE g.uri = ANY (ARRAY(SELECT uri FROM touched WHERE change <> 'stale'));

-- :add
-- Adds the rows of staged records; `added` lists the rows that were added.
WITH row AS (
  INSERT INTO bsky.thread_gate (uri, cid, creator, "postUri", "createdAt", "indexedAt")
  SELECT uri, cid, creator, post_uri, created_at, indexed_at
  FROM stage_threadgate
  ORDER BY uri
  ON CONFLICT DO NOTHING
  RETURNING uri
)
INSERT INTO added (uri)
SELECT uri FROM row;

-- :flag
-- Sets the flag of posts that are indexed already.
UPDATE bsky.post p SET "hasThreadGate" = true
FROM stage_threadgate s
JOIN added USING (uri)
WHERE p.uri = s.post_uri AND p.uri = ANY (ARRAY(SELECT post_uri FROM stage_threadgate));

-- :unflag
-- Takes the flag from posts whose gate was deleted or edited, also one that arrived only after its deletion. A deletion
-- alone proves nothing: the gate that it deletes may have been refused.
UPDATE bsky.post p SET "hasThreadGate" = false
FROM (
  SELECT DISTINCT v.record ->> 'post' AS post_uri
  FROM new_version n
  CROSS JOIN LATERAL (
    SELECT v.record FROM pipeline.version v WHERE v.uri = n.uri AND v.rev = n.rev AND NOT v.deleted OFFSET 0
  ) v
  WHERE n.collection = 'app.bsky.feed.threadgate'
) gone
WHERE p.uri = gone.post_uri
  AND p."hasThreadGate" IS DISTINCT FROM false
  AND NOT EXISTS (SELECT FROM bsky.thread_gate g WHERE g."postUri" = gone.post_uri);

-- :misses
-- A query for pending.sql: the lists that rules of staged gates name.
SELECT s.uri, 'list' AS kind, l.uri AS missing
FROM stage_threadgate s
CROSS JOIN LATERAL jsonb_array_elements_text(s.lists) l (uri)
WHERE split_part(l.uri, '/', 4) = '{nsid.list}'

-- :differs
-- Notes staged records whose row is missing or differs; a rerun repairs them.
INSERT INTO differing (uri, table_name)
SELECT s.uri, 'thread_gate'
FROM stage_threadgate s
LEFT JOIN bsky.thread_gate l USING (uri)
WHERE (l.cid, l.creator, l."postUri", l."createdAt", l."indexedAt")
  IS DISTINCT FROM (s.cid, s.creator, s.post_uri, s.created_at, s.indexed_at);
