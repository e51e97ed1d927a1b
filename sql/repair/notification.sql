-- Notifications in a rerun: those of the examined records against those that the write path's own statements ask for
-- (`new_notification`).
--
-- Guarantees: nobody is told twice, and a notification that is right keeps its row. What depended on something that is no
-- longer known stays as it is: `verified`, `unverified`, `starterpack-joined`, `subscribed-post` and `contact-match`; what
-- a muted thread kept silent (pipeline.silenced); whom a like, repost or follow told before it was edited, or the one whose
-- place it took (pipeline.told_otherwise). Records whose rev is not known came from a repository export: they tell nobody now.

-- What `notify` of the write path is asked of: every live record, as if it had just come.
-- :live
WITH others AS (
  DELETE FROM added
)
INSERT INTO added (uri)
SELECT s.uri
FROM {stage} s
JOIN bsky.{table} l USING (uri);

-- :examine
INSERT INTO examined (uri, is_post)
SELECT uri, false FROM stage_like
UNION ALL
SELECT uri, false FROM stage_repost
UNION ALL
SELECT uri, false FROM stage_follow
UNION ALL
SELECT uri, true FROM telling;

-- :leave_alone
DELETE FROM examined e
USING pipeline.told_otherwise d
WHERE d.uri = e.uri;

-- :wanted_once
DELETE FROM new_notification a
USING new_notification b
WHERE (a.record_uri, a.did, a.reason) = (b.record_uri, b.did, b.reason) AND a.ctid > b.ctid;

-- :superfluous
WITH gone AS (
  DELETE FROM bsky.notification n
  USING examined e
  WHERE n."recordUri" = e.uri
    AND n.reason = ANY (CASE
      WHEN NOT e.is_post THEN ARRAY['like', 'repost', 'follow', 'like-via-repost', 'repost-via-repost']
      WHEN EXISTS (SELECT FROM stage_post s WHERE s.uri = e.uri) THEN ARRAY['mention', 'quote', 'reply']
      ELSE ARRAY['reply']
    END)
    AND NOT EXISTS (
      SELECT FROM new_notification w
      WHERE w.record_uri = n."recordUri" AND w.did = n.did AND w.reason = n.reason
    )
  RETURNING n."recordUri"
)
INSERT INTO changed (table_name, key)
SELECT 'notification', "recordUri" FROM gone;

-- Notifications that say something else than their record. (Those of posts are amended by the insertion itself.)
-- :amended
WITH amended AS (
  UPDATE bsky.notification n SET
    author = w.author,
    "recordCid" = w.record_cid,
    "reasonSubject" = w.reason_subject
  FROM new_notification w
  JOIN examined e ON e.uri = w.record_uri
  WHERE n."recordUri" = w.record_uri
    AND n.did = w.did
    AND n.reason = w.reason
    AND (n.author, n."recordCid", n."reasonSubject") IS DISTINCT FROM (w.author, w.record_cid, w.reason_subject)
  RETURNING n."recordUri"
)
INSERT INTO changed (table_name, key)
SELECT 'notification', "recordUri" FROM amended;

-- What is left of `new_notification` is missing, and to be written.
-- :not_missing
DELETE FROM new_notification w
WHERE w.reason NOT IN (
    'like', 'repost', 'follow', 'like-via-repost', 'repost-via-repost', 'mention', 'quote', 'reply')
  OR EXISTS (SELECT FROM pipeline.told_otherwise e WHERE e.uri = w.record_uri)
  OR EXISTS (
    SELECT FROM pipeline.silenced s
    WHERE s.record_uri = w.record_uri AND s.did = w.did AND s.reason = w.reason
  )
  OR EXISTS (SELECT FROM bsky.record r WHERE r.uri = w.record_uri AND r.rev IS NULL)
  OR EXISTS (
    SELECT FROM bsky.notification n
    WHERE n."recordUri" = w.record_uri AND n.did = w.did AND n.reason = w.reason
      AND (
        n.reason NOT IN ('mention', 'quote', 'reply')
        OR (n."recordCid", n."reasonSubject", n."sortAt")
          IS NOT DISTINCT FROM (w.record_cid, w.reason_subject, w.sort_at)
      )
  );

-- After they were written.
-- :note
INSERT INTO changed (table_name, key)
SELECT 'notification', w.record_uri
FROM new_notification w
JOIN bsky.notification n ON n."recordUri" = w.record_uri AND n.did = w.did AND n.reason = w.reason;
