-- app.bsky.graph.verification -> bsky.verification, notifications `verified` and `unverified`.
--
-- Guarantees: one row per (subject, creator), see duplicates.sql. `verified` stays when the verification goes; its
-- deletion adds `unverified`, an edit does not.

-- :stage
CREATE TEMPORARY TABLE stage_verification (
  uri text NOT NULL,
  cid text NOT NULL,
  creator text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  rkey text NOT NULL,
  subject text NOT NULL,
  handle text NOT NULL,
  display_name text NOT NULL,
  created_at text NOT NULL,
  indexed_at text NOT NULL
) ON COMMIT DELETE ROWS;

-- :remove
WITH gone AS (
  DELETE FROM bsky.verification v
  USING touched t
  WHERE v.uri = t.uri AND t.change <> 'stale'
  RETURNING v.uri, v.cid, v.creator, v.subject, t.change, t.at
)
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT subject, uri, cid, creator, 'unverified', NULL, at
FROM gone
WHERE change = 'deleted';

-- :add
WITH added AS (
  INSERT INTO bsky.verification
    (uri, cid, rkey, creator, subject, handle, "displayName", "createdAt", "indexedAt")
  SELECT DISTINCT ON (subject, creator)
    uri, cid, rkey, creator, subject, handle, display_name, created_at, indexed_at
  FROM stage_verification
  ORDER BY subject, creator, rev, uri COLLATE "C"
  ON CONFLICT DO NOTHING
  RETURNING uri, cid, creator, subject, "sortedAt"
), notified AS (
  INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
  SELECT subject, uri, cid, creator, 'verified', NULL, "sortedAt"
  FROM added
)
SELECT count(*) FROM added;
