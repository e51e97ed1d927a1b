-- bsky.notification.
--
-- Guarantees: one row per (recipient, record, reason), however often its reason arrives. It goes when its record goes,
-- unless a duplicate is promoted (told_pair.sql); some reasons stay. A recipient who muted the thread is not notified;
-- everything else of the event is indexed all the same.
--
-- Placeholders (store/placeholders.py), filled from what collections declare of their notifications: {notified_once} are
-- the collections whose edits don't notify again (likes, say), {notified_again} those whose edits do (posts);
-- {reasons_that_stay} are reasons of notifications that stay when their record goes, {reasons_evaluated} those of posts.

-- :keep_recipients
-- Edits of these collections don't notify again: their notifications keep their recipients.
DELETE FROM new_notification w
USING touched t
WHERE t.uri = w.record_uri AND t.change = 'updated'
  AND t.collection IN ({notified_once});

-- :renew
-- Their notifications refer to the record as it is now.
UPDATE bsky.notification n SET "recordCid" = r.cid
FROM touched t
JOIN bsky.record r USING (uri)
WHERE t.change = 'updated'
  AND t.collection IN ({notified_once})
  AND n."recordUri" = t.uri
  AND n."recordCid" <> r.cid;

-- :withdraw
-- Notifications go with their records.
DELETE FROM bsky.notification n
WHERE n."recordUri" = ANY (ARRAY(SELECT uri FROM touched WHERE change IN ('deleted', 'recreated')))
  AND n.reason NOT IN ({reasons_that_stay});

-- :remember
-- Deleted records and edited posts notify again when they return: what was remembered of them is forgotten. Reruns must
-- know the records whose notifications don't follow from their present state: edits that did not notify again, and
-- promoted duplicates, which have the notifications of the records before them.
WITH gone AS (
  SELECT uri
  FROM touched
  WHERE change IN ('deleted', 'recreated') OR (change = 'updated' AND collection IN ({notified_again}))
), unsilenced AS (
  DELETE FROM pipeline.silenced s WHERE s.record_uri = ANY (ARRAY(SELECT uri FROM gone))
), unmarked AS (
  DELETE FROM pipeline.told_otherwise o WHERE o.uri = ANY (ARRAY(SELECT uri FROM gone))
)
INSERT INTO pipeline.told_otherwise (uri)
SELECT uri
FROM touched
WHERE change = 'updated'
  AND collection IN ({notified_once})
UNION
SELECT new_uri
FROM succession
WHERE split_part(new_uri, '/', 4) IN ({notified_once})
ORDER BY uri
ON CONFLICT DO NOTHING;

-- :silence
-- What a muted thread silences stays silent, even if the mute is gone when the record is looked at again. The thread is
-- the one that the post was in when it was liked or answered. Mutes are few: without any, nothing is looked up.
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

-- :withdraw_outdated
-- A post that was evaluated again, or edited, keeps only the notifications that follow from it now.
DELETE FROM bsky.notification n
WHERE n.id = ANY (ARRAY(
  SELECT o.id
  FROM (SELECT DISTINCT uri FROM telling) t
  CROSS JOIN LATERAL (
    SELECT o.id, o.did, o.reason
    FROM bsky.notification o
    WHERE o."recordUri" = t.uri AND o.reason IN ({reasons_evaluated})
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

-- :insert
-- Returns the number of new rows.
WITH notified AS (
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
  -- A post was edited, a nearer ancestor has arrived, or an earlier state of a record that notifies once.
  WHERE n.reason NOT IN ('starterpack-joined', 'subscribed-post', 'contact-match')
    AND (n."recordCid", n."reasonSubject", n."sortAt")
      IS DISTINCT FROM (excluded."recordCid", excluded."reasonSubject", excluded."sortAt")
  RETURNING 1
)
SELECT count(*) FROM notified;
