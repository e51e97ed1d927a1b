-- Muted threads: notifications of likes, reposts, replies and quotes that are held back because their recipient has
-- muted the thread.
--
-- Guarantees: a recipient is not notified of a thread that they had muted when the record came; everything else of the
-- event is indexed all the same. pipeline.muted_notification keeps what was held back, so that it stays so when the
-- mute is gone by the time the record is looked at again.
--
-- Placeholder (store/placeholders.py): {rows_of_post} are the rows of a post `m` in the tables of the collections that
-- notify its author (likes, reposts).

-- :mute
-- Keeps the batch's notifications that are held back. The thread is the one that the post was in when it was liked or
-- answered. Mutes are few: without any, nothing is looked up.
-- - muting: notifications whose recipient has muted some thread.
WITH muting AS MATERIALIZED (
  SELECT DISTINCT record_uri, did, reason, reason_subject
  FROM new_notification
  WHERE EXISTS (SELECT FROM bsky.thread_mute)
    AND reason_subject IS NOT NULL
    AND did IN (SELECT "mutedByDid" FROM bsky.thread_mute)
)
INSERT INTO pipeline.muted_notification (record_uri, did, reason)
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

-- :correct
-- Corrects notifications of likes and reposts that came before the post they name and therefore could not know its
-- thread. A recipient who muted the thread loses the notification; one who muted only the post, which turns out to be
-- no root, gets it. A like that is older than the post says nothing about its thread, whenever it comes.
-- - muter: posts that moved, of authors who have muted a thread.
-- - liked: the likes and reposts of these posts, and the root of the thread as of their own rev.
-- - withdrawn: notifications of muted threads.
-- - muted: the same, kept, so that reruns do not add them.
-- - unmuted: those kept before, where the recipient muted only the post.
WITH muter AS (
  SELECT e.uri, split_part(e.uri, '/', 3) AS creator, min(e.rev) AS rev
  FROM post_event e
  WHERE e.moves AND split_part(e.uri, '/', 3) IN (SELECT "mutedByDid" FROM bsky.thread_mute)
  GROUP BY e.uri
), liked AS (
  SELECT m.uri, m.creator, coalesce(p.root, m.uri) AS root, l.uri AS record_uri, l.cid, l.creator AS author, l.reason,
    l.sort_at, r.quiet
  FROM muter m
  CROSS JOIN LATERAL (
    {rows_of_post}
    OFFSET 0
  ) l
  CROSS JOIN LATERAL (SELECT r.rev, r.quiet FROM bsky.record r WHERE r.uri = l.uri AND r.rev >= m.rev OFFSET 0) r
  LEFT JOIN LATERAL pipeline.post_as_of(m.uri, r.rev) p ON true
), withdrawn AS (
  DELETE FROM bsky.notification n
  USING liked l
  WHERE n."recordUri" = l.record_uri AND n.did = l.creator AND n.reason = l.reason AND n."reasonSubject" = l.uri
    AND n."recordUri" = ANY (ARRAY(SELECT record_uri FROM liked))
    AND EXISTS (SELECT FROM bsky.thread_mute t WHERE t."rootUri" = l.root AND t."mutedByDid" = l.creator)
  RETURNING n."recordUri", n.did, n.reason
), muted AS (
  INSERT INTO pipeline.muted_notification (record_uri, did, reason)
  SELECT "recordUri", did, reason FROM withdrawn
  ORDER BY "recordUri", did, reason
  ON CONFLICT DO NOTHING
), unmuted AS (
  DELETE FROM pipeline.muted_notification s
  USING liked l
  WHERE s.record_uri = l.record_uri AND s.did = l.creator AND s.reason = l.reason
    AND s.record_uri = ANY (ARRAY(SELECT record_uri FROM liked))
    AND l.root <> l.uri
    AND EXISTS (SELECT FROM bsky.thread_mute t WHERE t."rootUri" = l.uri AND t."mutedByDid" = l.creator)
    AND NOT EXISTS (SELECT FROM bsky.thread_mute t WHERE t."rootUri" = l.root AND t."mutedByDid" = l.creator)
)
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT creator, record_uri, cid, author, reason, uri, sort_at
FROM liked l
WHERE l.root <> l.uri
  AND l.quiet IS NOT TRUE
  AND EXISTS (SELECT FROM bsky.thread_mute t WHERE t."rootUri" = l.uri AND t."mutedByDid" = l.creator);
