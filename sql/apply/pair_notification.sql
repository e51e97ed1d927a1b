-- Notifications of pairs (likes, reposts and follows: an account and a subject) that have a history: that were edited,
-- deleted together with others of the same natural key, or arrived late. (The collections' own files add the
-- notifications of all others; they cost nothing here.)
--
-- - A record notifies when it is created and begins a run: a span of revs in which one record or another has the same
--   natural key. It notifies the accounts that its first state names, with the time of that state; no edit changes
--   that.
-- - While the record exists, the notification is its own. Once it is deleted, the notification moves to the record that
--   counts now, if the run has lasted since; otherwise the notification is withdrawn.
-- - A notification that moves to another record keeps its `id` and `sortAt`.
-- - A run that a quiet record begins notifies nobody (bsky.record.quiet). Where a quiet record arrives late, and so
--   takes the place of a record that has notified, the notification moves to it all the same.
--
-- Guarantees: the notifications are a function of the events, whatever their order of arrival and the batches that they
-- come in.

-- :stage
-- Natural keys to look at. `is_affected`: of records that the batch affects; the others are further keys of the same
-- records.
CREATE TEMPORARY TABLE pair_key (
  kind text NOT NULL,
  creator text NOT NULL,
  subject text NOT NULL,
  is_affected boolean NOT NULL
) ON COMMIT DELETE ROWS;

-- Records that have, or had, one of the affected keys: all their notifications are derived again.
CREATE TEMPORARY TABLE pair_record (
  uri text NOT NULL
) ON COMMIT DELETE ROWS;

-- The notifications that these records should have.
CREATE TEMPORARY TABLE wanted_notification (
  did text NOT NULL,
  record_uri text NOT NULL,
  record_cid text NOT NULL,
  author text NOT NULL,
  reason text NOT NULL,
  reason_subject text,
  sort_at text NOT NULL,
  opener text NOT NULL,                  -- the record that notified first
  quiet boolean                          -- true: it does not notify, but a stored notification may move here
) ON COMMIT DELETE ROWS;

-- :find_keys
-- Finds the natural keys of records whose history the batch extends. Returns how many.
-- - affected_record: records that the batch itself supersedes, that were promoted or replaced, that arrived late beside
--   others of the same key, that are stale or were deleted late, or that are deleted after their notification was kept
--   (pipeline.kept_notification).
-- - affected_pair: the likes, reposts and follows among them.
-- - stated: all keys that they have, or had.
-- - made: the same, in pair_key.
WITH affected_record AS MATERIALIZED (
  SELECT uri FROM stage_superseded
  UNION
  SELECT old_uri FROM promotion
  UNION
  SELECT new_uri FROM promotion
  UNION
  SELECT s.uri
  FROM known_repo k
  JOIN (
    {staged_relationships_once}
  ) s ON s.creator = k.did AND s.rev <= k.rev
  CROSS JOIN LATERAL (SELECT FROM pipeline.version v WHERE v.relationship = s.relationship LIMIT 1) v
  UNION
  SELECT t.uri
  FROM touched t
  WHERE t.change = 'stale'
    AND NOT EXISTS (SELECT FROM bsky.record r WHERE r.uri = t.uri AND r.rev = t.rev)  -- not the same event again
  UNION
  SELECT d.uri FROM known_repo k JOIN stage_delete d USING (did) WHERE d.rev <= k.rev
  UNION
  SELECT t.uri
  FROM touched t
  CROSS JOIN LATERAL (SELECT FROM pipeline.kept_notification o WHERE o.uri = t.uri OFFSET 0) o
  WHERE t.change IN ('deleted', 'recreated')
), affected_pair AS MATERIALIZED (
  SELECT uri
  FROM affected_record
  WHERE split_part(uri, '/', 4) IN ({notified_once})
), stated AS (
  SELECT v.relationship, p.uri
  FROM affected_pair p
  CROSS JOIN LATERAL (
    SELECT DISTINCT v.relationship FROM pipeline.version v WHERE v.uri = p.uri AND v.relationship IS NOT NULL OFFSET 0
  ) v
  UNION
  SELECT pipeline.relationship_of(r.uri, r.json::jsonb), p.uri
  FROM affected_pair p
  CROSS JOIN LATERAL (SELECT r.uri, r.json FROM bsky.record r WHERE r.uri = p.uri OFFSET 0) r
), made AS (
  INSERT INTO pair_key (kind, creator, subject, is_affected)
  SELECT DISTINCT split_part(uri, '/', 4), split_part(uri, '/', 3), substring(relationship FROM '[^ ]*$'), true
  FROM stated
  RETURNING 1
)
SELECT count(*) FROM made;

-- :find_records
-- Finds the records that have, or had, one of these keys.
INSERT INTO pair_record (uri)
SELECT x.uri
FROM pair_key k
CROSS JOIN LATERAL pipeline.states_of_pair(k.kind, k.creator, k.subject) x
WHERE k.is_affected
GROUP BY x.uri;

-- :find_further_keys
-- Finds the other keys that those records have, or had.
INSERT INTO pair_key (kind, creator, subject, is_affected)
SELECT DISTINCT split_part(f.uri, '/', 4), split_part(f.uri, '/', 3), substring(f.relationship FROM '[^ ]*$'), false
FROM (
  SELECT t.uri, v.relationship
  FROM pair_record t
  CROSS JOIN LATERAL (
    SELECT DISTINCT v.relationship FROM pipeline.version v WHERE v.uri = t.uri AND v.relationship IS NOT NULL OFFSET 0
  ) v
  UNION
  SELECT t.uri, pipeline.relationship_of(r.uri, r.json::jsonb)
  FROM pair_record t
  CROSS JOIN LATERAL (SELECT r.uri, r.json FROM bsky.record r WHERE r.uri = t.uri OFFSET 0) r
) f
WHERE NOT EXISTS (
  SELECT
  FROM pair_key k
  WHERE k.kind = split_part(f.uri, '/', 4)
    AND k.creator = split_part(f.uri, '/', 3)
    AND k.subject = substring(f.relationship FROM '[^ ]*$')
);

-- :derive
-- Derives the notifications of these records from all their states.
-- - state: every state of a record with one of the keys; `until`: the rev of its next event; `continues`: the state
--   before it had the same key.
-- - ordered: the same; `stated_until`: until which rev the states before it had the key.
-- - run: the same; `begins`: nothing had the key when this state began.
-- - lasting: for each key, the run that lasts until now: the record that counts, and since when.
-- - opening: the creations that begin a run, and when their record was deleted.
-- - held: for each of them, the record that has its notifications now.
WITH state AS MATERIALIZED (
  SELECT k.kind, k.creator, k.subject, x.uri, x.rev, x.cid, x.sort_at, x.via, x.quiet,
    k.kind || ' ' || k.creator || ' ' || k.subject AS key,
    next.rev AS until, before.rev IS NULL OR before.deleted AS is_creation,
    NOT before.deleted AND before.relationship IS NOT DISTINCT FROM x.relationship AS continues
  FROM pair_key k
  CROSS JOIN LATERAL pipeline.states_of_pair(k.kind, k.creator, k.subject) x
  LEFT JOIN LATERAL (
    (SELECT v.rev FROM pipeline.version v WHERE v.uri = x.uri AND v.rev > x.rev ORDER BY v.rev LIMIT 1)
    UNION ALL
    SELECT r.rev FROM bsky.record r WHERE r.uri = x.uri AND r.rev > x.rev COLLATE "C"
    ORDER BY 1
    LIMIT 1
  ) next ON true
  LEFT JOIN LATERAL (
    SELECT v.rev, v.deleted, v.relationship
    FROM pipeline.version v
    WHERE v.uri = x.uri AND v.rev < x.rev
    ORDER BY v.rev DESC
    LIMIT 1
  ) before ON true
), ordered AS (
  SELECT s.*,
    max(coalesce(until, '~')) OVER (
      PARTITION BY key
      ORDER BY rev, continues IS TRUE DESC, uri COLLATE "C"
      ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS stated_until
  FROM state s
), run AS MATERIALIZED (
  SELECT o.*,
    stated_until IS NULL OR stated_until < rev OR (stated_until = rev AND continues IS NOT TRUE) AS begins
  FROM ordered o
), lasting AS MATERIALIZED (
  SELECT DISTINCT ON (r.key) r.key, r.uri, r.cid, b.since
  FROM run r
  JOIN (SELECT key, max(rev) AS since FROM run WHERE begins GROUP BY key) b USING (key)
  WHERE r.until IS NULL
  ORDER BY r.key, r.rev, r.uri COLLATE "C"
), opening AS (
  SELECT r.*, d.deleted_at
  FROM run r
  LEFT JOIN LATERAL (
    SELECT v.rev AS deleted_at
    FROM pipeline.version v
    WHERE v.uri = r.uri AND v.rev > r.rev AND v.deleted
    ORDER BY v.rev
    LIMIT 1
  ) d ON true
  WHERE r.begins AND r.is_creation
), held AS (
  SELECT o.uri AS opener, o.rev, o.kind, o.creator, o.subject, o.via, o.sort_at, o.quiet,
    CASE WHEN o.deleted_at IS NULL THEN o.uri ELSE l.uri END AS record_uri
  FROM opening o
  LEFT JOIN lasting l ON l.key = o.key AND l.since <= o.deleted_at
)
INSERT INTO wanted_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at, opener, quiet)
SELECT DISTINCT ON (h.record_uri, n.did, n.reason)
  n.did, h.record_uri, r.cid, h.creator, n.reason, n.reason_subject, h.sort_at, h.opener, h.quiet
FROM held h
CROSS JOIN LATERAL (SELECT r.cid FROM bsky.record r WHERE r.uri = h.record_uri OFFSET 0) r
CROSS JOIN LATERAL (
  {notified_by_state}
) n
WHERE h.record_uri IN (SELECT uri FROM pair_record)
ORDER BY h.record_uri, n.did, n.reason, h.quiet IS TRUE, h.opener = h.record_uri DESC, h.rev, h.opener COLLATE "C";

-- :replace
-- Puts these notifications in place of those that the collections' own files have collected.
-- - replaced: those, deleted.
-- - muted: notifications that a muted thread held back stay so when they move.
WITH replaced AS (
  DELETE FROM new_notification w
  WHERE w.record_uri IN (SELECT uri FROM pair_record)
    AND w.reason IN ({reasons_once})
), muted AS (
  INSERT INTO pipeline.muted_notification (record_uri, did, reason)
  SELECT w.record_uri, w.did, w.reason
  FROM wanted_notification w
  CROSS JOIN LATERAL (
    SELECT
    FROM pipeline.muted_notification m
    WHERE m.record_uri = w.opener AND m.did = w.did AND m.reason = w.reason
    OFFSET 0
  ) m
  WHERE w.opener <> w.record_uri
  ORDER BY w.record_uri, w.did, w.reason
  ON CONFLICT DO NOTHING
)
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT did, record_uri, record_cid, author, reason, reason_subject, sort_at
FROM wanted_notification
WHERE quiet IS NOT TRUE;

-- :move
-- Moves stored notifications to the records that should have them, and withdraws the others.
-- - stored: the notifications of these records.
-- - superfluous: those that their record should not have, numbered by recipient, author, reason and subject.
-- - missing: notifications that are not stored, numbered in the same way.
-- - moved: superfluous ones that a missing one replaces.
WITH stored AS MATERIALIZED (
  SELECT n.id, n.did, n.author, n."recordUri", n.reason, n."reasonSubject"
  FROM bsky.notification n
  WHERE n."recordUri" = ANY (ARRAY(SELECT uri FROM pair_record))
    AND n.reason IN ({reasons_once})
), superfluous AS (
  SELECT n.*, row_number() OVER (PARTITION BY n.did, n.author, n.reason, n."reasonSubject" ORDER BY n.id) AS number
  FROM stored n
  WHERE NOT EXISTS (
    SELECT FROM wanted_notification w WHERE w.record_uri = n."recordUri" AND w.did = n.did AND w.reason = n.reason)
), missing AS (
  SELECT w.*,
    row_number() OVER (
      PARTITION BY w.did, w.author, w.reason, w.reason_subject ORDER BY w.quiet IS TRUE, w.record_uri) AS number
  FROM wanted_notification w
  WHERE NOT EXISTS (
      SELECT FROM stored n WHERE w.record_uri = n."recordUri" AND w.did = n.did AND w.reason = n.reason)
    AND NOT EXISTS (
      SELECT FROM pipeline.muted_notification m
      WHERE m.record_uri = w.record_uri AND m.did = w.did AND m.reason = w.reason)
), moved AS (
  UPDATE bsky.notification n SET "recordUri" = m.record_uri, "recordCid" = m.record_cid, "sortAt" = m.sort_at
  FROM superfluous s
  JOIN missing m ON m.did = s.did AND m.author = s.author AND m.reason = s.reason AND m.number = s.number
    AND m.reason_subject IS NOT DISTINCT FROM s."reasonSubject"
    AND (
      m.quiet IS NOT TRUE
      OR EXISTS (
        SELECT FROM bsky.duplicate_record d WHERE d.uri = s."recordUri" AND d."duplicateOf" = m.record_uri OFFSET 0)
    )
  WHERE n.id = s.id
  RETURNING n.id
)
DELETE FROM bsky.notification n
USING superfluous s
WHERE n.id = s.id AND NOT EXISTS (SELECT FROM moved p WHERE p.id = s.id);

-- :keep
-- Marks these records, so that reruns keep their notifications: they cannot be derived from the records alone.
INSERT INTO pipeline.kept_notification (uri)
SELECT t.uri
FROM pair_record t
CROSS JOIN LATERAL (SELECT FROM bsky.record r WHERE r.uri = t.uri OFFSET 0) r
ORDER BY t.uri
ON CONFLICT DO NOTHING;
