-- Notifications in a rerun: the stored ones of the examined records against `new_notification`, which the write path's
-- own statements fill.
--
-- Guarantees: nobody is notified twice, and a notification that is right keeps its row. Notifications that depend on
-- something no longer known stay as they are: those with a reason that stays, `subscribed-post` and `contact-match`;
-- those that a muted thread held back (pipeline.muted_notification); those of likes, reposts and follows that were
-- edited or promoted (pipeline.kept_notification). Quiet records, and records whose rev is not known, came from a
-- repository's export: they do not notify now. Accounts that were removed are not notified.
--
-- Placeholders (store/placeholders.py): {reasons_once} and {staged_relationships_once} are of collections whose edits
-- don't notify again, {reasons_evaluated} of posts. In `live` {table} and {stage} are the collection's table and
-- staging table.

-- :live
-- Puts every live record into `added`, as if it had just arrived: the collection's `notify` then runs for all of them.
-- - others: records of the collection before, taken out.
WITH others AS (
  DELETE FROM added
)
INSERT INTO added (uri)
SELECT s.uri
FROM {stage} s
JOIN bsky.{table} l USING (uri);

-- :examine
-- Lists the records whose notifications are compared.
INSERT INTO examined (uri, is_post)
SELECT uri, false
FROM (
  {staged_relationships_once}
) s
UNION ALL
SELECT uri, true FROM notifying_post;

-- :leave_alone
-- Drops records whose notifications are kept as they are.
DELETE FROM examined e
USING pipeline.kept_notification d
WHERE d.uri = e.uri;

-- :distinct
-- Drops repeated rows of `new_notification`.
DELETE FROM new_notification a
USING new_notification b
WHERE (a.record_uri, a.did, a.reason) = (b.record_uri, b.did, b.reason) AND a.ctid > b.ctid;

-- :superfluous
-- Deletes notifications that do not follow from their record. For a post that is not staged, only `reply` can be
-- derived.
-- - gone: the deleted ones.
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
-- Corrects notifications that differ from their record. (Those of posts are corrected when they are inserted.)
-- - amended: the corrected ones.
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
-- Drops rows of `new_notification` that are stored already, or must not be added. The rest is missing.
DELETE FROM new_notification w
WHERE w.reason NOT IN ({reasons_once}, {reasons_evaluated})
  OR EXISTS (SELECT FROM pipeline.kept_notification e WHERE e.uri = w.record_uri)
  OR EXISTS (
    SELECT FROM pipeline.muted_notification s
    WHERE s.record_uri = w.record_uri AND s.did = w.did AND s.reason = w.reason
  )
  OR EXISTS (
    SELECT
    FROM bsky.record r
    WHERE r.uri = w.record_uri
      AND (
        r.rev IS NULL
        OR (
          r.quiet
          AND NOT EXISTS (
            SELECT FROM bsky.notification n
            WHERE n."recordUri" = w.record_uri AND n.did = w.did AND n.reason = w.reason
          )
        )
      )
  )
  OR EXISTS (SELECT FROM pipeline.removal m WHERE m.did = w.did)
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
-- Notes the notifications that were added. Runs after the insertion.
INSERT INTO changed (table_name, key)
SELECT 'notification', w.record_uri
FROM new_notification w
JOIN bsky.notification n ON n."recordUri" = w.record_uri AND n.did = w.did AND n.reason = w.reason;
