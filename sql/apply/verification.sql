-- app.bsky.graph.verification -> bsky.verification, notifications `verified` and `unverified`.
--
-- Guarantees: one row per (subject, creator), see duplicates.sql. The notification `verified` stays when the
-- verification is deleted; the deletion adds `unverified`, an edit does not. A quiet creation does not notify, nor does
-- a deletion that an export shows; a live deletion of a quiet record does. Verification notifications are derived
-- from the full history in `record` and `version`: a late event adds or withdraws exactly the notifications that it
-- changes.

-- :stage
-- The last state of every record that the batch creates or updates.
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

-- :remove
-- Removes the rows of records that were edited, deleted or demoted, unless they are removed already.
DELETE FROM bsky.verification v
WHERE v.uri = ANY (ARRAY(SELECT uri FROM touched WHERE change <> 'stale' AND NOT removed));

-- :add
-- Adds a row for the first staged record of each natural key; `added` lists the rows that were added.
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
-- Derives the notifications of the batch's verifications, and of all that share their natural keys, from the full
-- history. A creation notifies when no other record said the same; a deletion notifies when the deleted record counted.
-- An edit does neither, but the next record in rank counts from then on. Notifications that the history no longer
-- supports are withdrawn.
-- - key: natural keys of the batch's verifications, and of their past states.
-- - counted: for each key the record that counts now.
-- - state: every state, current or past, that said one of the keys: the record that counts, its duplicates, past
--   versions.
-- - span: the same, with the rev and time of the next event of its record, and whether it was a creation. (The time is
--   that of a deletion that notifies.)
-- - ranked: the same, with the rev until which the states before it, by rev and then record key, said the same.
-- - notified: the notifications that follow, the first state of each.
-- - withdrawn: stored notifications of these records that do not follow.
WITH key AS MATERIALIZED (
  SELECT creator, subject FROM stage_verification
  UNION
  SELECT split_part(v.relationship, ' ', 2), split_part(v.relationship, ' ', 3)
  FROM new_version n
  CROSS JOIN LATERAL (
    SELECT v.relationship FROM pipeline.version v WHERE v.uri = n.uri AND v.relationship IS NOT NULL OFFSET 0
  ) v
  WHERE n.collection = 'app.bsky.graph.verification'
  UNION
  SELECT l.creator, l.subject
  FROM new_version n
  CROSS JOIN LATERAL (SELECT l.creator, l.subject FROM bsky.verification l WHERE l.uri = n.uri OFFSET 0) l
  WHERE n.collection = 'app.bsky.graph.verification'
), counted AS MATERIALIZED (
  SELECT k.creator, k.subject, l.uri, l.sort_at
  FROM key k
  CROSS JOIN LATERAL (
    SELECT l.uri, l."sortedAt" AS sort_at
    FROM bsky.verification l
    WHERE l.creator = k.creator AND l.subject = k.subject
    OFFSET 0
  ) l
), state AS (
  SELECT c.creator, c.subject, r.uri, coalesce(r.rev, '') AS rev, r.cid, c.sort_at, r.quiet
  FROM counted c
  CROSS JOIN LATERAL (SELECT r.uri, r.rev, r.cid, r.quiet FROM bsky.record r WHERE r.uri = c.uri OFFSET 0) r
  UNION ALL
  SELECT c.creator, c.subject, r.uri, coalesce(r.rev, ''), r.cid, r."indexedAt", r.quiet
  FROM counted c
  CROSS JOIN LATERAL (
    SELECT r.uri, r.rev, r.cid, r."indexedAt", r.quiet
    FROM bsky.duplicate_record d
    JOIN bsky.record r USING (uri)
    WHERE d."duplicateOf" = c.uri
    OFFSET 0
  ) r
  UNION ALL
  SELECT k.creator, k.subject, v.uri, v.rev, v.record ->> 'cid', v.record ->> 'sortAt',
    (v.record ->> 'quiet')::boolean
  FROM key k
  CROSS JOIN LATERAL (
    SELECT v.uri, v.rev, v.record
    FROM pipeline.version v
    WHERE v.relationship = 'verified ' || k.creator || ' ' || k.subject
    OFFSET 0
  ) v
), span AS MATERIALIZED (
  SELECT s.*, next.rev AS until, next.at AS deleted_at, coalesce(before.deleted, true) AS is_creation
  FROM state s
  LEFT JOIN LATERAL (
    SELECT v.rev, CASE WHEN v.deleted AND v.record ->> 'quiet' IS NULL THEN v.record ->> 'sortAt' END AS at
    FROM pipeline.version v
    WHERE v.uri = s.uri AND v.rev > s.rev
    UNION ALL
    SELECT r.rev, NULL FROM bsky.record r WHERE r.uri = s.uri AND r.rev > s.rev COLLATE "C"
    ORDER BY 1
    LIMIT 1
  ) next ON true
  LEFT JOIN LATERAL (
    SELECT v.deleted FROM pipeline.version v WHERE v.uri = s.uri AND v.rev < s.rev ORDER BY v.rev DESC LIMIT 1
  ) before ON true
), ranked AS (
  SELECT s.*, max(coalesce(until, E'\x7f') COLLATE "C") OVER (
      PARTITION BY creator, subject ORDER BY rev COLLATE "C", uri COLLATE "C"
      ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS preceded_until
  FROM span s
), notified AS MATERIALIZED (
  SELECT DISTINCT ON (o.uri, o.subject, o.reason) o.*
  FROM (
    SELECT uri, subject, 'verified' AS reason, cid, creator, sort_at, rev
    FROM ranked
    WHERE is_creation AND quiet IS NOT TRUE AND (preceded_until IS NULL OR preceded_until <= rev)
    UNION ALL
    SELECT uri, subject, 'unverified', cid, creator, deleted_at, rev
    FROM ranked
    WHERE deleted_at IS NOT NULL AND (preceded_until IS NULL OR preceded_until < until)
  ) o
  ORDER BY o.uri, o.subject, o.reason, o.rev
), withdrawn AS (
  DELETE FROM bsky.notification n
  USING (SELECT DISTINCT uri, subject FROM span) s
  WHERE n."recordUri" = s.uri AND n.did = s.subject AND n.reason IN ('verified', 'unverified')
    AND NOT EXISTS (SELECT FROM notified t WHERE t.uri = s.uri AND t.subject = s.subject AND t.reason = n.reason)
)
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT subject, uri, cid, creator, reason, NULL, sort_at
FROM notified;

-- :kept_relationship
-- An expression for version.sql: both accounts of a past verification.
'verified ' || n.did || ' ' || (b.body ->> 'subject')

-- :kept_record
-- An expression for version.sql: what the notifications of a past verification are derived from.
jsonb_strip_nulls(jsonb_build_object('cid', n.cid, 'sortAt', n.sort_at, 'quiet', n.quiet))

-- :differs
-- Notes staged records whose row is missing or differs; a rerun repairs them.
INSERT INTO differing (uri, table_name)
SELECT s.uri, 'verification'
FROM stage_verification s
LEFT JOIN bsky.verification l USING (uri)
WHERE (l.cid, l.rkey, l.creator, l.subject, l.handle, l."displayName", l."createdAt", l."indexedAt")
  IS DISTINCT FROM (s.cid, s.rkey, s.creator, s.subject, s.handle, s.display_name, s.created_at, s.indexed_at);
