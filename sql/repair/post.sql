-- Posts and feed items in a rerun: wrong rows are removed, table by table; the statements of sql/apply/post.sql then
-- add what is missing. Flags are evaluated again by sql/apply/evaluation.sql and quote_evaluation.sql.
--
-- Guarantees: of a post only the wrong rows are touched. The counters of affected posts and accounts are recounted: the
-- rows of `delta_*` name them, and their numbers have no meaning in a rerun.
--
-- Placeholders (store/placeholders.py): {nsid.NAME} is the NSID of a collection; {subjects_post_agg} and
-- {subjects_profile_agg} are the `subjects_...` queries of the collections that have counters.

-- :post
-- Removes wrong rows of bsky.post.
-- - gone: the removed ones.
-- - authors: their authors, for the recount.
WITH gone AS (
  DELETE FROM bsky.post p
  USING differing d
  WHERE d.table_name = 'post' AND p.uri = d.uri
  RETURNING p.creator, p."replyParent"
), authors AS (
  INSERT INTO delta_profile (did) SELECT creator FROM gone
)
INSERT INTO delta_post (uri)
SELECT "replyParent" FROM gone WHERE "replyParent" IS NOT NULL
UNION ALL
SELECT reply_parent
FROM stage_post
JOIN differing d USING (uri)
WHERE d.table_name = 'post' AND reply_parent IS NOT NULL;

-- :feed_item
-- Removes wrong feed items.
DELETE FROM bsky.feed_item f
USING differing d
WHERE d.table_name = 'feed_item' AND f.uri = d.uri;

-- :quote
-- Removes wrong rows of bsky.quote.
-- - gone: the removed ones.
WITH gone AS (
  DELETE FROM bsky.quote q
  USING differing d
  WHERE d.table_name = 'quote' AND q.uri = d.uri
  RETURNING q.subject
)
INSERT INTO delta_post (uri)
SELECT subject FROM gone;

-- :post_embed_image
-- Removes wrong images.
DELETE FROM bsky.post_embed_image e
USING differing d
WHERE d.table_name = 'post_embed_image' AND e."postUri" = d.uri
  AND NOT EXISTS (
    SELECT FROM stage_post_image s
    WHERE (s.post_uri, s.position, s.image_cid, s.alt) = (e."postUri", e.position, e."imageCid", e.alt)
  );

-- :post_embed_gallery_image
-- Removes wrong gallery images.
DELETE FROM bsky.post_embed_gallery_image e
USING differing d
WHERE d.table_name = 'post_embed_gallery_image' AND e."postUri" = d.uri
  AND NOT EXISTS (
    SELECT FROM stage_post_gallery_image s
    WHERE (s.post_uri, s.position, s.image_cid, s.alt) = (e."postUri", e.position, e."imageCid", e.alt)
  );

-- :post_embed_external
-- Removes wrong external embeds.
DELETE FROM bsky.post_embed_external e
USING differing d
WHERE d.table_name = 'post_embed_external' AND e."postUri" = d.uri;

-- :post_embed_video
-- Removes wrong videos.
DELETE FROM bsky.post_embed_video e
USING differing d
WHERE d.table_name = 'post_embed_video' AND e."postUri" = d.uri;

-- :post_embed_record
-- Removes wrong embedded records.
DELETE FROM bsky.post_embed_record e
USING differing d
WHERE d.table_name = 'post_embed_record' AND e."postUri" = d.uri
  AND NOT EXISTS (
    SELECT FROM stage_post_record s
    WHERE (s.post_uri, s.embed_uri, s.embed_cid) = (e."postUri", e."embedUri", e."embedCid")
  );

-- :remains
-- Removes what remains of posts and reposts whose record is gone.
-- - gone: their URIs.
-- - feed_items: their feed items.
-- - quotes: their rows in bsky.quote; recounted: the quoted posts.
-- - op_thread_replies: their places in their author's thread, marked as deleted.
-- - duplicates: their rows in duplicate_record.
WITH gone AS (
  SELECT uri, at FROM touched WHERE change = 'deleted'
), feed_items AS (
  DELETE FROM bsky.feed_item f USING gone WHERE f.uri = gone.uri
), quotes AS (
  DELETE FROM bsky.quote q USING gone WHERE q.uri = gone.uri RETURNING q.subject
), recounted AS (
  INSERT INTO delta_post (uri) SELECT subject FROM quotes
), op_thread_replies AS (
  UPDATE bsky.op_thread_reply o SET "deletedAt" = gone.at
  FROM gone
  WHERE o."rootUri" >= 'at://' || split_part(gone.uri, '/', 3) || '/'
    AND o."rootUri" < 'at://' || split_part(gone.uri, '/', 3) || '0'
    AND o.uri = gone.uri
    AND o."deletedAt" IS NULL
), duplicates AS (
  DELETE FROM bsky.duplicate_record d USING gone WHERE d.uri = gone.uri
)
SELECT;

-- :lacking
-- Puts records into `added` for which the write path's statement for one table has to add a row.
-- - others: records of another table before, taken out.
WITH others AS (
  DELETE FROM added
)
INSERT INTO added (uri)
SELECT DISTINCT uri FROM differing WHERE table_name = %(table)s;

-- :lacking_feed_item
-- Does the same for feed items of another collection's records, whose table is {table}. A record that is a duplicate
-- has no feed item, and loses one that it had.
-- - others: records of another table before, taken out.
WITH others AS (
  DELETE FROM added
)
INSERT INTO added (uri)
SELECT DISTINCT d.uri
FROM differing d
JOIN bsky.{table} r USING (uri)
WHERE d.table_name = 'feed_item';

-- :gates
-- Corrects the flags that say whether posts have gates: a gate's record exists, or existed once (as pipeline.had_gate
-- finds out for the write path; a call of it for each post takes several times as long).
-- - gated: the posts looked at.
-- - gate: where their gates would be.
-- - expected: the right flags.
-- - flagged: posts whose flags were wrong.
WITH gated AS (
  SELECT uri FROM stage_post
  UNION
  SELECT post_uri FROM stage_threadgate
  UNION
  SELECT post_uri FROM stage_postgate
), gate AS (
  SELECT uri,
    replace(uri, '/{nsid.post}/', '/{nsid.threadgate}/') AS thread_gate_uri,
    replace(uri, '/{nsid.post}/', '/{nsid.postgate}/') AS post_gate_uri
  FROM gated
), expected AS (
  SELECT g.uri,
    coalesce(
      (SELECT true FROM bsky.record r WHERE r.uri = g.thread_gate_uri AND r.json::jsonb ->> 'post' = g.uri),
      (
        SELECT false
        FROM pipeline.version v
        WHERE v.uri = g.thread_gate_uri AND NOT v.deleted AND v.record ->> 'post' = g.uri
        LIMIT 1
      )) AS thread_gate,
    coalesce(
      (SELECT true FROM bsky.record r WHERE r.uri = g.post_gate_uri AND r.json::jsonb ->> 'post' = g.uri),
      (
        SELECT false
        FROM pipeline.version v
        WHERE v.uri = g.post_gate_uri AND NOT v.deleted AND v.record ->> 'post' = g.uri
        LIMIT 1
      )) AS post_gate
  FROM gate g
), flagged AS (
  UPDATE bsky.post p SET "hasThreadGate" = e.thread_gate, "hasPostGate" = e.post_gate
  FROM expected e
  WHERE p.uri = e.uri
    AND (p."hasThreadGate", p."hasPostGate") IS DISTINCT FROM (e.thread_gate, e.post_gate)
  RETURNING p.uri
)
INSERT INTO changed (table_name, key)
SELECT 'post', uri FROM flagged;

-- :unflag
-- Clears the flags of posts that cannot be evaluated because they are no replies, or no quotes. The replies below them
-- are evaluated again.
-- - flagged: posts whose flags were wrong.
-- - noted: the same, as changed.
WITH flagged AS (
  UPDATE bsky.post p SET
    "invalidReplyRoot" = CASE WHEN s.reply_parent IS NOT NULL THEN p."invalidReplyRoot" END,
    "violatesThreadGate" = CASE WHEN s.reply_parent IS NOT NULL THEN p."violatesThreadGate" END,
    "violatesEmbeddingRules" = CASE WHEN s.quotes THEN p."violatesEmbeddingRules" END
  FROM (
    SELECT p.uri, p.rev, p.reply_parent,
      EXISTS (SELECT FROM stage_post_record e WHERE e.post_uri = p.uri AND e.is_quote) AS quotes
    FROM stage_post p
  ) s
  WHERE p.uri = s.uri
    AND (
      (s.reply_parent IS NULL AND (p."invalidReplyRoot" IS NOT NULL OR p."violatesThreadGate" IS NOT NULL))
      OR (NOT s.quotes AND p."violatesEmbeddingRules" IS NOT NULL)
    )
  RETURNING p.uri, s.rev
), noted AS (
  INSERT INTO changed (table_name, key) SELECT 'post', uri FROM flagged
)
INSERT INTO post_event (uri, rev)
SELECT uri, rev FROM flagged;

-- :collect
-- Lists all staged replies for evaluation, with the flags that they have.
INSERT INTO evaluation (uri, rev, creator, root, parent, live, is_new, was_invalid, was_violating)
SELECT s.uri, s.rev, s.creator, s.reply_root, s.reply_parent, true, false, p."invalidReplyRoot", p."violatesThreadGate"
FROM stage_post s
JOIN bsky.post p USING (uri)
WHERE s.reply_parent IS NOT NULL
  AND NOT EXISTS (SELECT FROM evaluation e WHERE e.uri = s.uri AND e.rev = s.rev);

-- :flags_differ
-- Notes replies whose flags the evaluation is about to change.
INSERT INTO differing (uri, table_name)
SELECT e.uri, 'flags'
FROM evaluation e
JOIN bsky.post p USING (uri)
WHERE e.live
  AND (p."invalidReplyRoot", p."violatesThreadGate") IS DISTINCT FROM (
    CASE WHEN e.invalid OR e.violating THEN e.invalid END,
    CASE WHEN e.invalid OR e.violating THEN e.violating END);

-- :below_changed
-- Lists these replies as events: everything below them is evaluated again.
-- - found: affected posts of the first evaluation, taken out.
WITH found AS (
  DELETE FROM affected
)
INSERT INTO post_event (uri, rev)
SELECT DISTINCT e.uri, e.rev
FROM evaluation e
JOIN differing d USING (uri)
WHERE d.table_name = 'flags' AND e.live;

-- :gone_events
-- Lists deleted posts as events: the replies below them are evaluated again.
INSERT INTO post_event (uri, rev)
SELECT uri, '' FROM touched WHERE change = 'deleted' AND collection = '{nsid.post}';

-- :forget_flags
-- Forgets the changes that the first evaluation noted; the second one notes them all.
DELETE FROM differing WHERE table_name = 'flags';

-- :quotes_before
-- Notes which staged posts have the flag of a forbidden quote.
INSERT INTO differing (uri, table_name)
SELECT s.uri, 'quote flag set'
FROM stage_post s
JOIN bsky.post p USING (uri)
WHERE p."violatesEmbeddingRules" IS NOT NULL;

-- :note_flags
-- Notes the posts whose flags were changed.
INSERT INTO changed (table_name, key)
SELECT 'post', uri FROM differing WHERE table_name = 'flags'
UNION
SELECT 'post', s.uri
FROM stage_post s
JOIN bsky.post p USING (uri)
WHERE (p."violatesEmbeddingRules" IS NOT NULL)
  <> EXISTS (SELECT FROM differing d WHERE d.uri = s.uri AND d.table_name = 'quote flag set');

-- :subjects
-- Lists the posts and accounts whose counters the chunk's records count for; they are recounted at the end of the
-- rerun.
-- - post: the posts.
WITH post AS (
  INSERT INTO subject_post (key)
  SELECT DISTINCT uri
  FROM (
    {subjects_post_agg}
  ) s (uri)
  ON CONFLICT DO NOTHING
)
INSERT INTO subject_profile (key)
SELECT DISTINCT did
FROM (
  {subjects_profile_agg}
) s (did)
ON CONFLICT DO NOTHING;
