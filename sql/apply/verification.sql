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
DELETE FROM bsky.verification v
USING touched t
WHERE v.uri = t.uri AND t.change <> 'stale' AND NOT t.removed;

-- :add
WITH row AS (
  INSERT INTO bsky.verification
    (uri, cid, rkey, creator, subject, handle, "displayName", "createdAt", "indexedAt")
  SELECT DISTINCT ON (subject, creator)
    uri, cid, rkey, creator, subject, handle, display_name, created_at, indexed_at
  FROM stage_verification
  ORDER BY subject, creator, rev, uri COLLATE "C"
  ON CONFLICT DO NOTHING
  RETURNING uri
)
INSERT INTO added (uri)
SELECT uri FROM row;

-- :notify
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT s.subject, s.uri, s.cid, s.creator, 'verified', NULL, least(s.created_at, s.indexed_at)
FROM stage_verification s
JOIN added USING (uri);

-- Verifications that came and went, or changed, within the batch have been seen all the same.
-- :every_event
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT b.body ->> 'subject', s.uri, s.cid, s.did, 'verified', NULL, least(s.created_at, s.indexed_at)
FROM stage_superseded s
CROSS JOIN LATERAL (SELECT s.json::jsonb AS body) b
WHERE s.collection = 'app.bsky.graph.verification'
  AND s.action <> 'delete'
  AND NOT EXISTS (
    SELECT FROM bsky.verification v
    WHERE v.subject = b.body ->> 'subject' AND v.creator = s.did AND v.uri <> s.uri
  );

-- Whoever was told that a verification is there is told that it is gone.
-- :unverify
WITH gone AS (
  SELECT uri, indexed_at FROM stage_delete WHERE collection = 'app.bsky.graph.verification'
  UNION ALL
  SELECT uri, indexed_at
  FROM stage_superseded
  WHERE collection = 'app.bsky.graph.verification' AND action = 'delete'
), told AS (
  SELECT n.did, n."recordUri" AS uri, n."recordCid" AS cid, n.author
  FROM bsky.notification n
  WHERE n.reason = 'verified' AND n."recordUri" IN (SELECT uri FROM gone)
  UNION
  SELECT w.did, w.record_uri, w.record_cid, w.author
  FROM new_notification w
  WHERE w.reason = 'verified' AND w.record_uri IN (SELECT uri FROM gone)
)
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT t.did, t.uri, t.cid, t.author, 'unverified', NULL, g.indexed_at
FROM told t
JOIN gone g USING (uri);

-- Staged records whose row is missing or says something else; a rerun repairs them.
-- :differs
INSERT INTO differing (uri, table_name)
SELECT s.uri, 'verification'
FROM stage_verification s
LEFT JOIN bsky.verification l USING (uri)
WHERE (l.cid, l.rkey, l.creator, l.subject, l.handle, l."displayName", l."createdAt", l."indexedAt")
  IS DISTINCT FROM (s.cid, s.rkey, s.creator, s.subject, s.handle, s.display_name, s.created_at, s.indexed_at);
