-- bsky.notification.
--
-- Guarantees: one row per (recipient, record, reason), however often its reason arrives. A notification is withdrawn
-- when its record is deleted, unless a duplicate is promoted (pair_notification.sql); some reasons stay. A quiet record
-- (bsky.record.quiet) causes none: what is stored stays, as far as it follows from the record, and nothing is added.
-- Muted threads: muted_thread.sql.
--
-- Placeholders (store/placeholders.py), filled from what collections declare of their notifications: {notified_once}
-- are the collections whose edits don't notify again (likes, say), {notified_again} those whose edits do (posts);
-- {reasons_that_stay} are reasons of notifications that stay when their record goes, {reasons_once} those of
-- {notified_once}, {reasons_evaluated} those of posts.

-- :keep_recipients
-- Drops notifications of edits that do not notify again: editing a like, repost or follow updates its notification and
-- keeps its recipients.
DELETE FROM new_notification w
USING touched t
WHERE t.uri = w.record_uri AND t.change = 'updated'
  AND t.collection IN ({notified_once});

-- :renew
-- Updates the notifications of edited likes, reposts and follows to the CID of the record as it is now.
UPDATE bsky.notification n SET "recordCid" = r.cid
FROM touched t
JOIN bsky.record r USING (uri)
WHERE t.change = 'updated'
  AND t.collection IN ({notified_once})
  AND n."recordUri" = t.uri
  AND n."recordCid" <> r.cid;

-- :withdraw
-- Withdraws the notifications of deleted records.
DELETE FROM bsky.notification n
WHERE n."recordUri" = ANY (ARRAY(SELECT uri FROM touched WHERE change IN ('deleted', 'recreated')))
  AND n.reason NOT IN ({reasons_that_stay});

-- :keep
-- Keeps, for reruns, which records have notifications that do not follow from the record as it is now: edited records,
-- and promoted duplicates, which have the notifications of the record before them. Deleted records and edited posts
-- notify again when they return.
-- - gone: deleted records and edited posts.
-- - unmuted: their notifications that muted threads held back, which may be written then.
-- - no_longer_kept: their own rows in kept_notification.
WITH gone AS (
  SELECT uri
  FROM touched
  WHERE change IN ('deleted', 'recreated') OR (change = 'updated' AND collection IN ({notified_again}))
), unmuted AS (
  DELETE FROM pipeline.muted_notification s WHERE s.record_uri = ANY (ARRAY(SELECT uri FROM gone))
), no_longer_kept AS (
  DELETE FROM pipeline.kept_notification o WHERE o.uri = ANY (ARRAY(SELECT uri FROM gone))
)
INSERT INTO pipeline.kept_notification (uri)
SELECT uri
FROM touched
WHERE change = 'updated'
  AND collection IN ({notified_once})
UNION
SELECT new_uri
FROM promotion
WHERE split_part(new_uri, '/', 4) IN ({notified_once})
ORDER BY uri
ON CONFLICT DO NOTHING;

-- :withdraw_outdated
-- Withdraws notifications that no longer follow from a post that was evaluated again or edited.
DELETE FROM bsky.notification n
WHERE n.id = ANY (ARRAY(
  SELECT o.id
  FROM (SELECT DISTINCT uri FROM notifying_post) t
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
        SELECT FROM pipeline.muted_notification s
        WHERE s.record_uri = w.record_uri AND s.did = w.did AND s.reason = w.reason
      )
  )
));

-- :drop_quiet
-- Drops notifications of quiet records that are not stored. (Those of pairs with a history are dropped by
-- pair_notification.sql. Reasons that only one state of a record causes look at that state: profile.sql,
-- subscription.sql, verification.sql.)
DELETE FROM new_notification w
USING quiet_record q
WHERE q.uri = w.record_uri
  AND w.reason IN ({reasons_once}, {reasons_evaluated})
  AND NOT EXISTS (SELECT FROM pair_record p WHERE p.uri = w.record_uri)
  AND NOT EXISTS (
    SELECT FROM bsky.notification n
    WHERE n."recordUri" = w.record_uri AND n.did = w.did AND n.reason = w.reason
    OFFSET 0
  );

-- :insert
-- Writes the notifications and returns how many rows are new or changed. A stored one changes when its post was edited,
-- or when a nearer ancestor or an earlier state of a verification, like, repost or follow arrived late.
-- - written: these rows.
WITH written AS (
  INSERT INTO bsky.notification AS n (did, "recordUri", "recordCid", author, reason, "reasonSubject", "sortAt")
  SELECT DISTINCT ON (w.record_uri, w.did, w.reason)
    w.did, w.record_uri, w.record_cid, w.author, w.reason, w.reason_subject, w.sort_at
  FROM new_notification w
  WHERE NOT EXISTS (
      SELECT FROM pipeline.muted_notification s
      WHERE s.record_uri = w.record_uri AND s.did = w.did AND s.reason = w.reason
    )
  ORDER BY w.record_uri, w.did, w.reason, w.sort_at
  ON CONFLICT ("recordUri", did, reason) DO UPDATE SET
    "recordCid" = excluded."recordCid",
    "reasonSubject" = excluded."reasonSubject",
    "sortAt" = excluded."sortAt"
  WHERE n.reason NOT IN ('starterpack-joined', 'subscribed-post', 'contact-match')
    AND (n."recordCid", n."reasonSubject", n."sortAt")
      IS DISTINCT FROM (excluded."recordCid", excluded."reasonSubject", excluded."sortAt")
  RETURNING 1
)
SELECT count(*) FROM written;
