-- bsky.notification.
--
-- Guarantees: one row per (recipient, record, reason), however often its reason arrives. It goes when its record goes,
-- unless a duplicate takes the record's place (told_pair.sql). `verified`,
-- `unverified` and `starterpack-joined` stay. A recipient who muted the thread is not told; everything else of the
-- event is indexed all the same.

-- An edited like, repost or follow has told already; what was told of is the record as it is now.
-- :told_already
DELETE FROM new_notification w
USING touched t
WHERE t.uri = w.record_uri AND t.change = 'updated'
  AND t.collection IN ('app.bsky.feed.like', 'app.bsky.feed.repost', 'app.bsky.graph.follow');

-- :renew
UPDATE bsky.notification n SET "recordCid" = r.cid
FROM touched t
JOIN bsky.record r USING (uri)
WHERE t.change = 'updated'
  AND t.collection IN ('app.bsky.feed.like', 'app.bsky.feed.repost', 'app.bsky.graph.follow')
  AND n."recordUri" = t.uri
  AND n."recordCid" <> r.cid;

-- :withdraw
DELETE FROM bsky.notification n
WHERE n."recordUri" = ANY (ARRAY(SELECT uri FROM touched WHERE change IN ('deleted', 'recreated')))
  AND n.reason NOT IN ('verified', 'unverified', 'starterpack-joined');

-- What is gone is told of anew should it come back, and so is an edited post. The edit of anything else changes what is said, not
-- who was told, and who takes another's place has what that told: reruns must know.
-- :remember
WITH gone AS (
  SELECT uri
  FROM touched
  WHERE change IN ('deleted', 'recreated') OR (change = 'updated' AND collection = 'app.bsky.feed.post')
), unsilenced AS (
  DELETE FROM pipeline.silenced s WHERE s.record_uri = ANY (ARRAY(SELECT uri FROM gone))
), unmarked AS (
  DELETE FROM pipeline.told_otherwise o WHERE o.uri = ANY (ARRAY(SELECT uri FROM gone))
)
INSERT INTO pipeline.told_otherwise (uri)
SELECT uri
FROM touched
WHERE change = 'updated'
  AND collection IN ('app.bsky.feed.like', 'app.bsky.feed.repost', 'app.bsky.graph.follow')
UNION
SELECT new_uri
FROM succession
WHERE split_part(new_uri, '/', 4) IN ('app.bsky.feed.like', 'app.bsky.feed.repost', 'app.bsky.graph.follow')
ORDER BY uri
ON CONFLICT DO NOTHING;

-- What a muted thread keeps silent stays silent, also when the mute is gone by the time the record is looked at again. The
-- thread is the one that the post was in when it was liked or answered. Mutes are few: without any, nothing is looked up.
-- :silence
WITH muting AS MATERIALIZED (
  SELECT DISTINCT record_uri, did, reason, reason_subject
  FROM new_notification
  WHERE EXISTS (SELECT FROM bsky.thread_mute)
    AND reason_subject IS NOT NULL
    AND did IN (SELECT "mutedByDid" FROM bsky.thread_mute)
)
INSERT INTO pipeline.silenced (record_uri, did, reason)
SELECT w.record_uri, w.did, w.reason
FROM muting w
CROSS JOIN LATERAL (SELECT r.rev FROM bsky.record r WHERE r.uri = w.record_uri OFFSET 0) r
LEFT JOIN LATERAL pipeline.post_as_of(w.reason_subject, r.rev) p ON true
WHERE EXISTS (
  SELECT FROM bsky.thread_mute m
  WHERE m."mutedByDid" = w.did AND m."rootUri" = coalesce(p.root, w.reason_subject)
)
ORDER BY w.record_uri, w.did, w.reason
ON CONFLICT DO NOTHING;

-- A post that was judged anew, or edited, has told nobody but those whom it concerns now.
-- :withdraw_superfluous
DELETE FROM bsky.notification n
WHERE n.id = ANY (ARRAY(
  SELECT o.id
  FROM (SELECT DISTINCT uri FROM telling) t
  CROSS JOIN LATERAL (
    SELECT o.id, o.did, o.reason
    FROM bsky.notification o
    WHERE o."recordUri" = t.uri AND o.reason IN ('mention', 'quote', 'reply')
    OFFSET 0
  ) o
  WHERE NOT EXISTS (
    SELECT FROM new_notification w
    WHERE w.record_uri = t.uri AND w.did = o.did AND w.reason = o.reason
      AND NOT EXISTS (
        SELECT FROM pipeline.silenced s
        WHERE s.record_uri = w.record_uri AND s.did = w.did AND s.reason = w.reason
      )
  )
));

-- Returns the number of new rows.
-- :insert
WITH told AS (
  INSERT INTO bsky.notification AS n (did, "recordUri", "recordCid", author, reason, "reasonSubject", "sortAt")
  SELECT DISTINCT ON (w.record_uri, w.did, w.reason)
    w.did, w.record_uri, w.record_cid, w.author, w.reason, w.reason_subject, w.sort_at
  FROM new_notification w
  WHERE NOT EXISTS (
      SELECT FROM pipeline.silenced s
      WHERE s.record_uri = w.record_uri AND s.did = w.did AND s.reason = w.reason
    )
  ORDER BY w.record_uri, w.did, w.reason, w.sort_at
  ON CONFLICT ("recordUri", did, reason) DO UPDATE SET
    "recordCid" = excluded."recordCid",
    "reasonSubject" = excluded."reasonSubject",
    "sortAt" = excluded."sortAt"
  -- The post was edited, a nearer ancestor has arrived, or the first state of a verification, like, repost or follow.
  WHERE n.reason NOT IN ('starterpack-joined', 'subscribed-post', 'contact-match')
    AND (n."recordCid", n."reasonSubject", n."sortAt")
      IS DISTINCT FROM (excluded."recordCid", excluded."reasonSubject", excluded."sortAt")
  RETURNING 1
)
SELECT count(*) FROM told;
