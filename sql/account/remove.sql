-- The removal of an account: everything by it, and its effects on others.
--
-- Guarantees: records are removed by the write path (sql/apply/), so counters, notifications, duplicates and
-- evaluations follow as from any other deletion. The statements here remove what no record covers, a bounded number of
-- rows at a time. Each can be repeated, so a removal goes on after a crash. `begin` and `cancelled` run in the
-- transaction of every batch of deletions, `lock` and `is_removed` in that of everything else, with the lock of the
-- repository's row: an account that is active again (sql/apply/account.sql) takes the same lock, so nothing of it is
-- removed after that.
--
-- What stays of a removed account: its row in pipeline.repo without its commits, its row in pipeline.removal, local
-- moderation, other accounts' records about it with their counters, and of its own past states those by which posts of
-- others are evaluated (`states` says which). All ranges are of URIs: from %(start)s, at://<did>/, up to, not
-- including, %(end)s.
--
-- Placeholders (store/placeholders.py): {nsid.NAME} is the NSID of a collection.

-- :open
-- Returns the removals to be done, the oldest first, without those of %(tried)s.
SELECT did, reason
FROM pipeline.removal
WHERE finished_at IS NULL AND did <> ALL (%(tried)s)
ORDER BY requested_at, did
LIMIT 1;

-- :queue
-- Returns the number of removals to be done.
SELECT count(*) FROM pipeline.removal WHERE finished_at IS NULL;

-- :start
-- Notes that the removal of %(did)s has begun, and makes sure that there is a row of its repository to be locked.
-- Returns nothing where the removal was taken back.
WITH known AS (
  INSERT INTO pipeline.repo (did)
  SELECT did FROM pipeline.removal WHERE did = %(did)s AND finished_at IS NULL
  ON CONFLICT (did) DO NOTHING
)
UPDATE pipeline.removal SET started_at = coalesce(started_at, now()), error = NULL
WHERE did = %(did)s AND finished_at IS NULL
RETURNING did;

-- :failed
-- Notes why the removal of %(did)s does not go on.
UPDATE pipeline.removal SET error = %(error)s WHERE did = %(did)s AND finished_at IS NULL;

-- :next_duplicates
-- Returns the URIs of up to %(limit)s records that are duplicates. They go first: were the record that counts deleted
-- before them, each would be promoted in its turn.
SELECT d.uri
FROM bsky.duplicate_record d
CROSS JOIN LATERAL (SELECT FROM bsky.record r WHERE r.uri = d.uri OFFSET 0) r
WHERE d.uri >= %(start)s AND d.uri < %(end)s
  AND EXISTS (SELECT FROM pipeline.removal m WHERE m.did = %(did)s AND m.finished_at IS NULL)
ORDER BY d.uri
LIMIT %(limit)s;

-- :next_records
-- Returns the URIs of up to %(limit)s records of the account; nothing where the removal was taken back.
SELECT r.uri
FROM bsky.record r
WHERE r.uri >= %(start)s AND r.uri < %(end)s
  AND EXISTS (SELECT FROM pipeline.removal m WHERE m.did = %(did)s AND m.finished_at IS NULL)
ORDER BY r.uri
LIMIT %(limit)s;

-- :begin
-- In a batch of deletions: locks the repositories, as every writer does first.
SELECT r.did
FROM pipeline.repo r
WHERE r.did = ANY (ARRAY(SELECT DISTINCT did FROM stage_delete))
ORDER BY r.did
FOR UPDATE;

-- :cancelled
-- In a batch of deletions: drops those of removals that were taken back.
DELETE FROM stage_delete s
WHERE s.rev = pipeline.removal_rev()
  AND NOT EXISTS (SELECT FROM pipeline.removal m WHERE m.did = s.did AND m.finished_at IS NULL OFFSET 0);

-- :count
-- In a batch of deletions: counts the records that it removed.
UPDATE pipeline.removal m SET records = m.records + g.count
FROM (
  SELECT s.did, count(*) AS count
  FROM touched t
  JOIN stage_delete s USING (uri)
  WHERE t.change = 'deleted' AND s.rev = pipeline.removal_rev()
  GROUP BY s.did
) g
WHERE m.did = g.did;

-- :states_from
-- Returns the URI of the %(limit)s-th newest past state before %(before)s; null: there are none.
SELECT min(uri)
FROM (
  SELECT uri
  FROM pipeline.version
  WHERE uri >= %(start)s AND uri < %(before)s
  ORDER BY uri DESC, rev DESC
  LIMIT %(limit)s
) v;

-- :dependencies
-- Removes what the account's replies depended on: those with past states from %(from)s up to, not including,
-- %(before)s.
-- - others: relationships; the last statement removes the names of records that are no posts.
WITH others AS (
  DELETE FROM pipeline.dependency
  WHERE uri = ANY (ARRAY(SELECT uri FROM pipeline.version WHERE uri >= %(from)s AND uri < %(before)s))
)
DELETE FROM pipeline.reply_to_other
WHERE uri = ANY (ARRAY(SELECT uri FROM pipeline.version WHERE uri >= %(from)s AND uri < %(before)s));

-- :states
-- Removes the account's past states from %(from)s up to, not including, %(before)s, but for those by which posts of
-- others are evaluated: posts that others have replied to, or that states which stay have; thread gates of threads, and
-- post gates of posts, in which others have written; follows and list items on which their replies depend; other
-- records that they have replied to. The deletions themselves go: as of any rev the record was there.
DELETE FROM pipeline.version v
WHERE v.uri >= %(from)s AND v.uri < %(before)s
  AND (
    v.rev = pipeline.removal_rev()
    OR NOT CASE
      WHEN v.collection = '{nsid.post}' THEN
        EXISTS (SELECT FROM bsky.post p WHERE p."replyParent" = v.uri AND p.creator <> %(did)s OFFSET 0)
        OR EXISTS (SELECT FROM bsky.post p WHERE p."replyRoot" = v.uri AND p.creator <> %(did)s OFFSET 0)
        OR EXISTS (SELECT FROM pipeline.version c WHERE c.parent = v.uri AND c.uri <> v.uri OFFSET 0)
      WHEN v.collection = '{nsid.threadgate}' THEN
        EXISTS (
          SELECT
          FROM bsky.post p
          WHERE p."replyRoot" = replace(v.uri, '/{nsid.threadgate}/', '/{nsid.post}/') AND p.creator <> %(did)s
          OFFSET 0
        )
      WHEN v.collection = '{nsid.postgate}' THEN
        EXISTS (
          SELECT
          FROM bsky.post_embed_record e
          WHERE e."embedUri" = replace(v.uri, '/{nsid.postgate}/', '/{nsid.post}/')
            AND split_part(e."postUri", '/', 3) <> %(did)s
          OFFSET 0
        )
      WHEN EXISTS (
          SELECT
          FROM pipeline.version w
          CROSS JOIN LATERAL (
            SELECT
            FROM pipeline.dependency d
            WHERE d.relationship = w.relationship AND split_part(d.uri, '/', 3) <> %(did)s
            OFFSET 0
          ) d
          WHERE w.uri = v.uri
          OFFSET 0
        )
        THEN true
      ELSE EXISTS (
          SELECT
          FROM pipeline.reply_to_other o
          WHERE o.subject = v.uri AND split_part(o.uri, '/', 3) <> %(did)s
          OFFSET 0
        )
    END
  );

-- :tombstones
-- Removes tombstones.
DELETE FROM pipeline.tombstone
WHERE uri = ANY (ARRAY(
  SELECT uri FROM pipeline.tombstone WHERE uri >= %(start)s AND uri < %(end)s LIMIT %(limit)s
));

-- :pending
-- Removes what waits for something else.
DELETE FROM pipeline.pending p
USING (SELECT uri FROM pipeline.pending WHERE uri >= %(start)s AND uri < %(end)s LIMIT %(limit)s) x
WHERE p.uri = x.uri;

-- :dead_letters
-- Removes dead letters, with their bytes.
DELETE FROM pipeline.dead_letter
WHERE id = ANY (ARRAY(SELECT id FROM pipeline.dead_letter WHERE did = %(did)s LIMIT %(limit)s));

-- :gaps
-- Removes gaps: nothing of the repository is wanted.
DELETE FROM pipeline.gap
WHERE id = ANY (ARRAY(SELECT id FROM pipeline.gap WHERE did = %(did)s LIMIT %(limit)s));

-- :notifications_received
-- Removes the notifications that the account received.
DELETE FROM bsky.notification
WHERE id = ANY (ARRAY(
  SELECT id FROM bsky.notification WHERE did = %(did)s LIMIT %(limit)s FOR UPDATE SKIP LOCKED
));

-- :notifications_sent
-- Removes notifications that stay when their record is deleted.
DELETE FROM bsky.notification
WHERE id = ANY (ARRAY(
  SELECT id FROM bsky.notification WHERE "recordUri" >= %(start)s AND "recordUri" < %(end)s LIMIT %(limit)s
));

-- :muted_notifications
-- Removes what is known of notifications that muted threads held back.
DELETE FROM pipeline.muted_notification m
USING (
  SELECT record_uri FROM pipeline.muted_notification
  WHERE record_uri >= %(start)s AND record_uri < %(end)s
  LIMIT %(limit)s
) x
WHERE m.record_uri = x.record_uri;

-- :thread_places
-- Removes the places that the account's replies had in its own threads, those of deleted replies too.
DELETE FROM bsky.op_thread_reply o
USING (
  SELECT "rootUri", uri FROM bsky.op_thread_reply WHERE "rootUri" >= %(start)s AND "rootUri" < %(end)s LIMIT %(limit)s
) x
WHERE o."rootUri" = x."rootUri" AND o.uri = x.uri;

-- :post_counters
-- Removes the counters of its posts for which nobody else has a record. (The others equal a recount.)
DELETE FROM bsky.post_agg
WHERE uri = ANY (ARRAY(
  SELECT uri
  FROM bsky.post_agg
  WHERE uri >= %(start)s AND uri < %(end)s
    AND ("likeCount", "replyCount", "repostCount", "quoteCount", "bookmarkCount") = (0, 0, 0, 0, 0)
  ORDER BY uri
  LIMIT %(limit)s
  FOR UPDATE SKIP LOCKED
));

-- :label_definitions
-- Removes what it said, as a labeler, that its labels mean. Definitions that were made here are the operator's. (Its
-- labels: sql/apply/label.sql. Labels about the account are their labelers' own.)
DELETE FROM pipeline.label_definition WHERE src = %(did)s AND NOT is_local;

-- :labeler
-- Removes how far its stream was read, what came of it, and how far its labels were swept.
-- - swept: the latter.
WITH swept AS (
  DELETE FROM pipeline.label_swept WHERE src = %(did)s
)
DELETE FROM pipeline.labeler WHERE did = %(did)s;

-- :lock
-- Before what no record covers, and before the end: locks the repository.
SELECT r.did
FROM pipeline.repo r
WHERE r.did = %(did)s
FOR UPDATE;

-- :is_removed
-- With that lock: returns whether the removal is wanted and no record is left. (Where it was taken back and asked for
-- again, there may be new ones.)
SELECT EXISTS (SELECT FROM pipeline.removal WHERE did = %(did)s AND finished_at IS NULL)
  AND NOT EXISTS (SELECT FROM bsky.record WHERE uri >= %(start)s AND uri < %(end)s);

-- :finish
-- The end: removes the account itself, forgets its commits and its identity, and notes that the removal is done. An
-- account that the operator has taken down, or trusts as a verifier, keeps its row with that alone.
-- - forgotten: its row in pipeline.repo.
-- - identity, wanted, unchecked, seen, profile_counter: its rows in these tables.
-- - marked: its row in bsky.actor, where the operator marked it.
-- - gone: the same, where not.
WITH forgotten AS (
  UPDATE pipeline.repo SET
    rev = NULL, chain_from = NULL, chain_since = NULL, commit_cid = NULL, data_cid = NULL, seq = NULL,
    has_start = false, is_partial = false, export_rev = NULL, resync_at = NULL, resync_oldest = NULL, updated_at = now()
  WHERE did = %(did)s
), identity AS (
  DELETE FROM pipeline.identity WHERE did = %(did)s
), wanted AS (
  DELETE FROM pipeline.backfill_queue WHERE did = %(did)s
), unchecked AS (
  DELETE FROM pipeline.unchecked_commit WHERE did = %(did)s
), seen AS (
  DELETE FROM bsky.actor_sync WHERE did = %(did)s
), profile_counter AS (
  DELETE FROM bsky.profile_agg
  WHERE did = %(did)s AND ("followersCount", "followsCount", "postsCount") = (0, 0, 0)
), marked AS (
  UPDATE bsky.actor SET
    handle = NULL,
    "ageAssuranceStatus" = NULL,
    "ageAssuranceLastInitiatedAt" = NULL,
    "ageAssuranceAccess" = NULL,
    "ageAssuranceCountryCode" = NULL,
    "ageAssuranceRegionCode" = NULL
  WHERE did = %(did)s AND ("takedownRef" IS NOT NULL OR "trustedVerifier")
), gone AS (
  DELETE FROM bsky.actor WHERE did = %(did)s AND "takedownRef" IS NULL AND NOT "trustedVerifier"
)
UPDATE pipeline.removal SET finished_at = now(), error = NULL WHERE did = %(did)s;
