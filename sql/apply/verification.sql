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

CREATE TEMPORARY TABLE gone_verification (
  uri text NOT NULL,
  cid text NOT NULL,
  creator text NOT NULL,
  subject text NOT NULL,
  change text NOT NULL
) ON COMMIT DELETE ROWS;

-- :remove
WITH gone AS (
  DELETE FROM bsky.verification v
  USING touched t
  WHERE v.uri = t.uri AND t.change <> 'stale' AND NOT t.removed
  RETURNING v.uri, v.cid, v.creator, v.subject, t.change
)
INSERT INTO gone_verification (uri, cid, creator, subject, change)
SELECT uri, cid, creator, subject, change FROM gone;

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
JOIN added USING (uri)
-- Who takes another's place brings no news, also where the other's time lies within the batch.
WHERE NOT EXISTS (SELECT FROM succession c WHERE c.new_uri = s.uri)
  AND NOT EXISTS (
    SELECT
    FROM stage_superseded x
    WHERE x.collection = 'app.bsky.graph.verification'
      AND x.action <> 'delete'
      AND x.uri <> s.uri
      AND x.did = s.creator
      AND x.json::jsonb ->> 'subject' = s.subject
      AND x.rev < s.rev
      AND NOT EXISTS (SELECT FROM stage_delete d WHERE d.uri = x.uri AND d.rev < s.rev)
      AND NOT EXISTS (
        SELECT FROM stage_superseded d WHERE d.uri = x.uri AND d.action = 'delete' AND d.rev BETWEEN x.rev AND s.rev)
  );

-- Verifications that came and went, or changed, within the batch have been seen all the same.
-- :every_event
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT b.body ->> 'subject', s.uri, s.cid, s.did, 'verified', NULL, least(s.created_at, s.indexed_at)
FROM stage_superseded s
CROSS JOIN LATERAL (SELECT s.json::jsonb AS body) b
WHERE s.collection = 'app.bsky.graph.verification'
  AND s.action <> 'delete'
  AND NOT EXISTS (
    SELECT
    FROM bsky.verification v
    JOIN bsky.record r USING (uri)
    WHERE v.subject = b.body ->> 'subject' AND v.creator = s.did AND v.uri <> s.uri AND r.rev < s.rev
  );

-- Whoever was told that a verification is there is told that it is gone, in its last state.
-- :unverify
WITH gone AS (
  SELECT uri, rev, indexed_at FROM stage_delete WHERE collection = 'app.bsky.graph.verification'
  UNION ALL
  SELECT uri, rev, indexed_at
  FROM stage_superseded
  WHERE collection = 'app.bsky.graph.verification' AND action = 'delete'
), told AS (
  SELECT n.did, n."recordUri" AS uri, n."recordCid" AS cid, n.author
  FROM bsky.notification n
  WHERE n.reason = 'verified' AND n."recordUri" = ANY (ARRAY(SELECT uri FROM gone))
  UNION
  SELECT w.did, w.record_uri, w.record_cid, w.author
  FROM new_notification w
  WHERE w.reason = 'verified' AND w.record_uri IN (SELECT uri FROM gone)
  UNION
  -- One that took another's place was not told of when it came.
  SELECT subject, uri, cid, creator FROM gone_verification WHERE change IN ('deleted', 'recreated')
)
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT DISTINCT ON (t.did, t.uri)
  t.did,
  t.uri,
  coalesce(
    (
      SELECT s.cid
      FROM stage_superseded s
      WHERE s.uri = t.uri AND s.action <> 'delete' AND s.rev < g.rev
      ORDER BY s.rev DESC
      LIMIT 1
    ),
    (SELECT v.cid FROM gone_verification v WHERE v.uri = t.uri LIMIT 1),
    t.cid
  ),
  t.author, 'unverified', NULL, g.indexed_at
FROM told t
JOIN gone g USING (uri)
ORDER BY t.did, t.uri, g.rev;

-- Staged records whose row is missing or says something else; a rerun repairs them.
-- :differs
INSERT INTO differing (uri, table_name)
SELECT s.uri, 'verification'
FROM stage_verification s
LEFT JOIN bsky.verification l USING (uri)
WHERE (l.cid, l.rkey, l.creator, l.subject, l.handle, l."displayName", l."createdAt", l."indexedAt")
  IS DISTINCT FROM (s.cid, s.rkey, s.creator, s.subject, s.handle, s.display_name, s.created_at, s.indexed_at);
