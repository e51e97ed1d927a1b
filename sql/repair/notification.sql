-- Notifications in a rerun: those of the examined records compared with those that the write path's own statements
-- collect in `new_notification`.
--
-- Guarantees: no account is notified twice, and a notification that is right keeps its row. Notifications that depended on
-- what is no longer known stay as they are: those with a reason that stays, `subscribed-post` and `contact-match`; what a
-- muted thread silenced (pipeline.silenced); and those of records whose present state does not say whom they notified,
-- because they were edited or promoted (pipeline.told_otherwise). Records without a known rev came from a repository
-- export; they notify only while they are new, and not by a rerun.
--
-- Placeholders (store/placeholders.py): {reasons_once} and {staged_relationships_once} are of collections whose edits don't
-- notify again, {reasons_evaluated} of posts. In `live` {table} and {stage} are the collection's table and staging table.

-- :live
-- `notify` of the write path runs for every live record, as if it had just come.
WITH others AS (
  DELETE FROM added
)
INSERT INTO added (uri)
SELECT s.uri
FROM {stage} s
JOIN bsky.{table} l USING (uri);

-- :examine
INSERT INTO examined (uri, is_post)
SELECT uri, false
FROM (
  {staged_relationships_once}
) s
UNION ALL
SELECT uri, true FROM telling;

-- :leave_alone
-- Their present state does not say whom they notified.
DELETE FROM examined e
USING pipeline.told_otherwise d
WHERE d.uri = e.uri;

-- :distinct
DELETE FROM new_notification a
USING new_notification b
WHERE (a.record_uri, a.did, a.reason) = (b.record_uri, b.did, b.reason) AND a.ctid > b.ctid;

-- :superfluous
WITH gone AS (
  DELETE FROM bsky.notification n
  USING examined e
  WHERE n."recordUri" = e.uri
    AND n.reason = ANY (CASE
      WHEN NOT e.is_post THEN ARRAY[{reasons_once}]
      WHEN EXISTS (SELECT FROM stage_post s WHERE s.uri = e.uri) THEN ARRAY[{reasons_evaluated}]
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

-- :amended
-- Notifications whose columns differ from their record. (The insertion itself corrects those of posts.)
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

-- :not_missing
-- What this leaves in `new_notification` is missing, and will be written.
DELETE FROM new_notification w
WHERE w.reason NOT IN ({reasons_once}, {reasons_evaluated})
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
        n.reason NOT IN ({reasons_evaluated})
        OR (n."recordCid", n."reasonSubject", n."sortAt")
          IS NOT DISTINCT FROM (w.record_cid, w.reason_subject, w.sort_at)
      )
  );

-- :note
-- After the missing ones were written.
INSERT INTO changed (table_name, key)
SELECT 'notification', w.record_uri
FROM new_notification w
JOIN bsky.notification n ON n."recordUri" = w.record_uri AND n.did = w.did AND n.reason = w.reason;
