-- Notifications of likes, reposts and follows that have a history: that were edited, deleted together with others that say
-- the same, or came late. (Of all others their own files notify when they are added, and nothing here looks at them.)
--
-- Who is notified is a function of the events, whatever their order of arrival and the batches that they come in:
-- - A record notifies when it is created and begins a run: a span of revs in which one record or another says the same
--   (has the same natural key). It notifies whom it names then, with that state's time; no edit changes that.
-- - While it exists, the notification is its own. Once it is deleted, the notification is that of the record that counts
--   now, if the run has lasted since; else it goes.
-- A notification that passes to another record keeps its `id` and `sortAt`.

-- :stage
-- Natural keys to look at. `is_near`: of records that the batch affects; the others are further keys of the same records.
CREATE TEMPORARY TABLE told_key (
  kind text NOT NULL,
  creator text NOT NULL,
  subject text NOT NULL,
  is_near boolean NOT NULL
) ON COMMIT DELETE ROWS;

-- Records that say, or said, one of the near keys: all that they told is in question.
CREATE TEMPORARY TABLE told_record (
  uri text NOT NULL
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE told_wanted (
  did text NOT NULL,
  record_uri text NOT NULL,
  record_cid text NOT NULL,
  author text NOT NULL,
  reason text NOT NULL,
  reason_subject text,
  sort_at text NOT NULL,
  opener text NOT NULL                   -- the record that notified first
) ON COMMIT DELETE ROWS;

-- :near
-- Records with a history that this batch adds to: superseded by the batch itself, succeeded by others that say the same, late,
-- or deleted after an edit. Returns the number of their keys.
WITH affected_record AS MATERIALIZED (
  SELECT uri FROM stage_superseded
  UNION
  SELECT old_uri FROM succession
  UNION
  SELECT new_uri FROM succession
  UNION
  SELECT s.uri
  FROM known_repo k
  JOIN (
    {staged_relationships_once}
  ) s ON s.creator = k.did AND s.rev <= k.rev
  CROSS JOIN LATERAL (SELECT FROM pipeline.version v WHERE v.fact = s.relationship LIMIT 1) v
  UNION
  SELECT t.uri
  FROM touched t
  WHERE t.change = 'stale'
    AND NOT EXISTS (SELECT FROM bsky.record r WHERE r.uri = t.uri AND r.rev = t.rev)  -- delivered again
  UNION
  SELECT d.uri FROM known_repo k JOIN stage_delete d USING (did) WHERE d.rev <= k.rev
  UNION
  SELECT t.uri
  FROM touched t
  CROSS JOIN LATERAL (SELECT FROM pipeline.told_otherwise o WHERE o.uri = t.uri OFFSET 0) o
  WHERE t.change IN ('deleted', 'recreated')
), pair AS MATERIALIZED (
  SELECT uri
  FROM affected_record
  WHERE split_part(uri, '/', 4) IN ({notified_once})
), fact AS (
  SELECT v.fact, p.uri
  FROM pair p
  CROSS JOIN LATERAL (
    SELECT DISTINCT v.fact FROM pipeline.version v WHERE v.uri = p.uri AND v.fact IS NOT NULL OFFSET 0
  ) v
  UNION
  SELECT pipeline.fact_of(r.uri, r.json::jsonb), p.uri
  FROM pair p
  CROSS JOIN LATERAL (SELECT r.uri, r.json FROM bsky.record r WHERE r.uri = p.uri OFFSET 0) r
), made AS (
  INSERT INTO told_key (kind, creator, subject, is_near)
  SELECT DISTINCT split_part(uri, '/', 4), split_part(uri, '/', 3), substring(fact FROM '[^ ]*$'), true
  FROM fact
  RETURNING 1
)
SELECT count(*) FROM made;

-- :records
INSERT INTO told_record (uri)
SELECT x.uri
FROM told_key k
CROSS JOIN LATERAL pipeline.states_of_pair(k.kind, k.creator, k.subject) x
WHERE k.is_near
GROUP BY x.uri;

-- :further
-- What else those records say or said.
INSERT INTO told_key (kind, creator, subject, is_near)
SELECT DISTINCT split_part(f.uri, '/', 4), split_part(f.uri, '/', 3), substring(f.fact FROM '[^ ]*$'), false
FROM (
  SELECT t.uri, v.fact
  FROM told_record t
  CROSS JOIN LATERAL (
    SELECT DISTINCT v.fact FROM pipeline.version v WHERE v.uri = t.uri AND v.fact IS NOT NULL OFFSET 0
  ) v
  UNION
  SELECT t.uri, pipeline.fact_of(r.uri, r.json::jsonb)
  FROM told_record t
  CROSS JOIN LATERAL (SELECT r.uri, r.json FROM bsky.record r WHERE r.uri = t.uri OFFSET 0) r
) f
WHERE NOT EXISTS (
  SELECT
  FROM told_key k
  WHERE k.kind = split_part(f.uri, '/', 4)
    AND k.creator = split_part(f.uri, '/', 3)
    AND k.subject = substring(f.fact FROM '[^ ]*$')
);

-- :wanted
WITH state AS MATERIALIZED (
  SELECT k.kind, k.creator, k.subject, x.uri, x.rev, x.cid, x.sort_at, x.via,
    k.kind || ' ' || k.creator || ' ' || k.subject AS key,
    next.rev AS until, before.rev IS NULL OR before.deleted AS is_creation,
    NOT before.deleted AND before.fact IS NOT DISTINCT FROM x.fact AS continues
  FROM told_key k
  CROSS JOIN LATERAL pipeline.states_of_pair(k.kind, k.creator, k.subject) x
  LEFT JOIN LATERAL (
    (SELECT v.rev FROM pipeline.version v WHERE v.uri = x.uri AND v.rev > x.rev ORDER BY v.rev LIMIT 1)
    UNION ALL
    SELECT r.rev FROM bsky.record r WHERE r.uri = x.uri AND r.rev > x.rev COLLATE "C"
    ORDER BY 1
    LIMIT 1
  ) next ON true
  LEFT JOIN LATERAL (
    SELECT v.rev, v.deleted, v.fact
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
      ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS said_until
  FROM state s
), run AS MATERIALIZED (
  SELECT o.*,
    said_until IS NULL OR said_until < rev OR (said_until = rev AND continues IS NOT TRUE) AS begins
  FROM ordered o
), lasting AS MATERIALIZED (
  -- The run that lasts until now, and the record that counts.
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
  SELECT o.uri AS opener, o.rev, o.kind, o.creator, o.subject, o.via, o.sort_at,
    CASE WHEN o.deleted_at IS NULL THEN o.uri ELSE l.uri END AS record_uri
  FROM opening o
  LEFT JOIN lasting l ON l.key = o.key AND l.since <= o.deleted_at
)
INSERT INTO told_wanted (did, record_uri, record_cid, author, reason, reason_subject, sort_at, opener)
SELECT DISTINCT ON (h.record_uri, n.did, n.reason)
  n.did, h.record_uri, r.cid, h.creator, n.reason, n.reason_subject, h.sort_at, h.opener
FROM held h
CROSS JOIN LATERAL (SELECT r.cid FROM bsky.record r WHERE r.uri = h.record_uri OFFSET 0) r
CROSS JOIN LATERAL (
  {notified_by_state}
) n
WHERE h.record_uri IN (SELECT uri FROM told_record)
ORDER BY h.record_uri, n.did, n.reason, h.opener = h.record_uri DESC, h.rev, h.opener COLLATE "C";

-- :instead
-- What their own files would have told.
WITH replaced AS (
  DELETE FROM new_notification w
  WHERE w.record_uri IN (SELECT uri FROM told_record)
    AND w.reason IN ({reasons_once})
), silent AS (
  -- What a muted thread kept silent stays silent.
  INSERT INTO pipeline.silenced (record_uri, did, reason)
  SELECT w.record_uri, w.did, w.reason
  FROM told_wanted w
  CROSS JOIN LATERAL (
    SELECT FROM pipeline.silenced s WHERE s.record_uri = w.opener AND s.did = w.did AND s.reason = w.reason OFFSET 0
  ) s
  WHERE w.opener <> w.record_uri
  ORDER BY w.record_uri, w.did, w.reason
  ON CONFLICT DO NOTHING
)
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT did, record_uri, record_cid, author, reason, reason_subject, sort_at FROM told_wanted;

-- :pass_on
-- A notification of a record that has it no longer goes to the one of the same account that has.
WITH there AS MATERIALIZED (
  SELECT n.id, n.did, n.author, n."recordUri", n.reason, n."reasonSubject"
  FROM bsky.notification n
  WHERE n."recordUri" = ANY (ARRAY(SELECT uri FROM told_record))
    AND n.reason IN ({reasons_once})
), superfluous AS (
  SELECT n.*, row_number() OVER (PARTITION BY n.did, n.author, n.reason, n."reasonSubject" ORDER BY n.id) AS number
  FROM there n
  WHERE NOT EXISTS (
    SELECT FROM told_wanted w WHERE w.record_uri = n."recordUri" AND w.did = n.did AND w.reason = n.reason)
), missing AS (
  SELECT w.*, row_number() OVER (PARTITION BY w.did, w.author, w.reason, w.reason_subject ORDER BY w.record_uri) AS number
  FROM told_wanted w
  WHERE NOT EXISTS (
      SELECT FROM there n WHERE w.record_uri = n."recordUri" AND w.did = n.did AND w.reason = n.reason)
    AND NOT EXISTS (
      SELECT FROM pipeline.silenced s WHERE s.record_uri = w.record_uri AND s.did = w.did AND s.reason = w.reason)
), passed AS (
  UPDATE bsky.notification n SET "recordUri" = m.record_uri, "recordCid" = m.record_cid, "sortAt" = m.sort_at
  FROM superfluous s
  JOIN missing m ON m.did = s.did AND m.author = s.author AND m.reason = s.reason AND m.number = s.number
    AND m.reason_subject IS NOT DISTINCT FROM s."reasonSubject"
  WHERE n.id = s.id
  RETURNING n.id
)
DELETE FROM bsky.notification n
USING superfluous s
WHERE n.id = s.id AND NOT EXISTS (SELECT FROM passed p WHERE p.id = s.id);

-- :remember
-- Whom they told is not to be read off the records: reruns must know.
INSERT INTO pipeline.told_otherwise (uri)
SELECT t.uri
FROM told_record t
CROSS JOIN LATERAL (SELECT FROM bsky.record r WHERE r.uri = t.uri OFFSET 0) r
ORDER BY t.uri
ON CONFLICT DO NOTHING;
