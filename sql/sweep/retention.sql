-- Retention: records that are older than APPVIEW_RETENTION_DAYS, by the time that the index sorts them by.
--
-- Guarantees: records are deleted by the write path (sql/apply/), as those of a removed account: counters, duplicates,
-- feed items and notifications follow, and nothing is evaluated again. No tombstones are made. The statements from
-- `lock` on run in the transaction of each batch of deletions, whose URIs are in `stage_delete`; the others only read.
-- An account is protected if it is one of %(protected)s, or one of these follows it. %(before)s is a time as in
-- "sortAt".
--
-- Placeholders (store/placeholders.py): {nsid.NAME} is the NSID of a collection.

-- :protected
-- Returns the accounts that the accounts %(protected)s follow.
SELECT DISTINCT "subjectDid" FROM bsky.follow WHERE creator = ANY (%(protected)s);

-- :unknown
-- Returns those of the accounts %(protected)s of which it is not known whom they follow: nothing is indexed of them, or
-- not everything. Not those that are not active or excluded: of these nothing more will be known.
SELECT p.did
FROM unnest(%(protected)s::text[]) p (did)
LEFT JOIN pipeline.repo r ON r.did = p.did
WHERE r.did IS NULL OR (r.active AND NOT r.excluded AND (r.is_partial OR NOT r.has_start))
ORDER BY p.did;

-- :accounts
-- Looks at the next %(limit)s repositories after %(after)s. Returns the last one (null: there are no more), and those
-- whose accounts are not protected and have records that are old.
-- - page: the repositories looked at.
WITH page AS MATERIALIZED (
  SELECT did FROM pipeline.repo WHERE did > %(after)s ORDER BY did LIMIT %(limit)s
)
SELECT
  (SELECT max(did) FROM page),
  ARRAY(
    SELECT p.did
    FROM page p
    WHERE p.did <> ALL (%(protected)s)
      AND NOT EXISTS (SELECT FROM bsky.follow f WHERE f.creator = ANY (%(protected)s) AND f."subjectDid" = p.did)
      AND (
        EXISTS (SELECT FROM bsky.post o WHERE o.creator = p.did AND o."sortAt" < %(before)s OFFSET 0)
        OR EXISTS (SELECT FROM bsky."like" o WHERE o.creator = p.did AND o."sortAt" < %(before)s OFFSET 0)
        OR EXISTS (SELECT FROM bsky.repost o WHERE o.creator = p.did AND o."sortAt" < %(before)s OFFSET 0)
      )
    ORDER BY p.did
  );

-- :records
-- Returns about %(limit)s old records of the account %(did)s: likes and reposts with all records that say the same, if
-- these are old, too; posts with their gates.
-- - old: likes, reposts and posts.
WITH old AS MATERIALIZED (
  (
    SELECT l.uri
    FROM bsky."like" l
    WHERE l.creator = %(did)s AND l."sortAt" < %(before)s
      AND NOT EXISTS (
        SELECT
        FROM bsky.duplicate_record d
        JOIN bsky.record r ON r.uri = d.uri
        WHERE d."duplicateOf" = l.uri AND r."indexedAt" >= %(before)s
        OFFSET 0
      )
    ORDER BY l."sortAt"
    LIMIT %(limit)s
  )
  UNION ALL
  (
    SELECT l.uri
    FROM bsky.repost l
    WHERE l.creator = %(did)s AND l."sortAt" < %(before)s
      AND NOT EXISTS (
        SELECT
        FROM bsky.duplicate_record d
        JOIN bsky.record r ON r.uri = d.uri
        WHERE d."duplicateOf" = l.uri AND r."indexedAt" >= %(before)s
        OFFSET 0
      )
    LIMIT %(limit)s
  )
  UNION ALL
  (
    SELECT p.uri
    FROM bsky.post p
    WHERE p.creator = %(did)s AND p."sortAt" < %(before)s
    ORDER BY p."sortAt"
    LIMIT %(limit)s
  )
), chosen AS MATERIALIZED (
  SELECT uri FROM old LIMIT %(limit)s
)
SELECT uri FROM chosen
UNION
SELECT d.uri FROM chosen c JOIN bsky.duplicate_record d ON d."duplicateOf" = c.uri
UNION
SELECT g.uri FROM chosen c JOIN bsky.thread_gate g ON g."postUri" = c.uri
UNION
SELECT g.uri FROM chosen c JOIN bsky.post_gate g ON g."postUri" = c.uri
ORDER BY 1;

-- :count
-- Counts old records by table and by what becomes of them: deleted, or why they are kept. Reads the three tables.
-- - followed: the accounts that protected accounts follow.
-- - old: the old records; `said_again`: another record that is not old says the same.
WITH followed AS MATERIALIZED (
  SELECT DISTINCT "subjectDid" AS did FROM bsky.follow WHERE creator = ANY (%(protected)s)
), old AS (
  SELECT 'post' AS kind, creator, false AS said_again FROM bsky.post WHERE "sortAt" < %(before)s
  UNION ALL
  SELECT 'like', l.creator, EXISTS (
    SELECT
    FROM bsky.duplicate_record d
    JOIN bsky.record r ON r.uri = d.uri
    WHERE d."duplicateOf" = l.uri AND r."indexedAt" >= %(before)s
    OFFSET 0
  )
  FROM bsky."like" l
  WHERE l."sortAt" < %(before)s
  UNION ALL
  SELECT 'repost', l.creator, EXISTS (
    SELECT
    FROM bsky.duplicate_record d
    JOIN bsky.record r ON r.uri = d.uri
    WHERE d."duplicateOf" = l.uri AND r."indexedAt" >= %(before)s
    OFFSET 0
  )
  FROM bsky.repost l
  WHERE l."sortAt" < %(before)s
)
SELECT kind,
  CASE
    WHEN creator = ANY (%(protected)s) THEN 'protected'
    WHEN creator IN (SELECT did FROM followed) THEN 'followed'
    WHEN said_again THEN 'said again'
    ELSE 'deleted'
  END AS outcome,
  count(*)
FROM old
GROUP BY 1, 2
ORDER BY 1, 2;

-- :lock
-- In a batch of deletions: locks the repositories, as every writer does first.
SELECT r.did
FROM pipeline.repo r
WHERE r.did = ANY (ARRAY(SELECT DISTINCT did FROM stage_delete))
ORDER BY r.did
FOR UPDATE;

-- :thread_places
-- Removes the places in their author's threads of what was deleted, unless a reply below it remains.
DELETE FROM bsky.op_thread_reply o
USING stage_delete s, pipeline.version v
WHERE v.uri = s.uri AND v.rev <> s.rev AND v.uri = ANY (ARRAY(SELECT uri FROM stage_delete))
  AND o."rootUri" = v.root AND o.uri = s.uri AND o."deletedAt" IS NOT NULL
  AND NOT EXISTS (SELECT FROM bsky.post p WHERE p."replyParent" = o.uri OFFSET 0);

-- :dependencies
-- Removes what the deleted replies depended on and waited for, and what muted threads held back of the deleted records.
-- - others, waiting: relationships, and missing records; the last statement removes notifications.
WITH others AS (
  DELETE FROM pipeline.dependency WHERE uri = ANY (ARRAY(SELECT uri FROM stage_delete))
), to_others AS (
  DELETE FROM pipeline.reply_to_other WHERE uri = ANY (ARRAY(SELECT uri FROM stage_delete))
), waiting AS (
  DELETE FROM pipeline.pending WHERE uri = ANY (ARRAY(SELECT uri FROM stage_delete))
)
DELETE FROM pipeline.muted_notification WHERE record_uri = ANY (ARRAY(SELECT uri FROM stage_delete));

-- :states
-- Removes the past states of the records %(uris)s of which nothing is stored, but for those by which posts that remain
-- are evaluated: posts that have replies, or past states of replies; gates of threads and posts in which something
-- remains; other records that were replied to. The deletions by retention go in any case: as of any rev the record was
-- there. Returns the parents and roots of what was removed, whose own states may not be needed any more.
-- - gone: the states.
WITH gone AS (
  DELETE FROM pipeline.version v
  WHERE v.uri = ANY (%(uris)s)
    AND NOT EXISTS (SELECT FROM bsky.record r WHERE r.uri = v.uri OFFSET 0)
    AND NOT EXISTS (
      SELECT
      FROM pipeline.version d
      WHERE d.uri = v.uri AND d.deleted AND d.rev <> pipeline.removal_rev()
      OFFSET 0
    )
    AND (
      v.rev = pipeline.removal_rev()
      OR NOT CASE
        WHEN v.collection = '{nsid.post}' THEN
          EXISTS (SELECT FROM bsky.post p WHERE p."replyParent" = v.uri OFFSET 0)
          OR EXISTS (SELECT FROM bsky.post p WHERE p."replyRoot" = v.uri OFFSET 0)
          OR EXISTS (SELECT FROM pipeline.version c WHERE c.parent = v.uri AND c.uri <> v.uri OFFSET 0)
        WHEN v.collection = '{nsid.threadgate}' THEN
          EXISTS (
            SELECT
            FROM bsky.post p
            WHERE p."replyRoot" = replace(v.uri, '/{nsid.threadgate}/', '/{nsid.post}/')
            OFFSET 0
          )
        WHEN v.collection = '{nsid.postgate}' THEN
          EXISTS (
            SELECT
            FROM bsky.post_embed_record e
            WHERE e."embedUri" = replace(v.uri, '/{nsid.postgate}/', '/{nsid.post}/')
            OFFSET 0
          )
        ELSE EXISTS (SELECT FROM pipeline.reply_to_other o WHERE o.subject = v.uri OFFSET 0)
      END
    )
  RETURNING v.parent, v.root
)
SELECT DISTINCT above.uri
FROM gone g
CROSS JOIN LATERAL (
  VALUES
    (g.parent),
    (g.root),
    (replace(g.root, '/{nsid.post}/', '/{nsid.threadgate}/'))
) above (uri)
WHERE above.uri IS NOT NULL;

-- :deletions
-- Removes the deletions by retention of this batch that are left: of records with events of before.
DELETE FROM pipeline.version v
USING stage_delete s
WHERE v.uri = s.uri AND v.rev = s.rev AND s.rev = pipeline.removal_rev();

-- :post_counters
-- Removes the counters of deleted posts for which nobody has a record any more.
DELETE FROM bsky.post_agg
WHERE uri = ANY (ARRAY(
  SELECT a.uri
  FROM bsky.post_agg a
  WHERE a.uri = ANY (ARRAY(SELECT uri FROM stage_delete))
    AND (a."likeCount", a."replyCount", a."repostCount", a."quoteCount", a."bookmarkCount") = (0, 0, 0, 0, 0)
  ORDER BY a.uri
  FOR UPDATE SKIP LOCKED
));
