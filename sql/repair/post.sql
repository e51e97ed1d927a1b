-- Posts and feed items in a rerun: rows that are wrong are deleted, table by table; the statements of sql/apply/post.sql
-- then add what is missing. Flags are evaluated again by sql/apply/thread.sql.
--
-- Guarantees: of a post only the rows that are wrong are touched. The counters that this affects are recounted: rows of
-- `delta_*` name their keys, and a rerun does not use the numbers.
--
-- Placeholders (store/placeholders.py): {nsid.NAME} is the NSID of a collection; {subjects_post_agg} and
-- {subjects_profile_agg} are the `subjects_...` sections of the collections that have counters.

-- :post
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
DELETE FROM bsky.feed_item f
USING differing d
WHERE d.table_name = 'feed_item' AND f.uri = d.uri;

-- :quote
WITH gone AS (
  DELETE FROM bsky.quote q
  USING differing d
  WHERE d.table_name = 'quote' AND q.uri = d.uri
  RETURNING q.subject
)
INSERT INTO delta_post (uri)
SELECT subject FROM gone;

-- :post_embed_image
DELETE FROM bsky.post_embed_image e
USING differing d
WHERE d.table_name = 'post_embed_image' AND e."postUri" = d.uri
  AND NOT EXISTS (
    SELECT FROM stage_post_image s
    WHERE (s.post_uri, s.position, s.image_cid, s.alt) = (e."postUri", e.position, e."imageCid", e.alt)
  );

-- :post_embed_gallery_image
DELETE FROM bsky.post_embed_gallery_image e
USING differing d
WHERE d.table_name = 'post_embed_gallery_image' AND e."postUri" = d.uri
  AND NOT EXISTS (
    SELECT FROM stage_post_gallery_image s
    WHERE (s.post_uri, s.position, s.image_cid, s.alt) = (e."postUri", e.position, e."imageCid", e.alt)
  );

-- :post_embed_external
DELETE FROM bsky.post_embed_external e
USING differing d
WHERE d.table_name = 'post_embed_external' AND e."postUri" = d.uri;

-- :post_embed_video
DELETE FROM bsky.post_embed_video e
USING differing d
WHERE d.table_name = 'post_embed_video' AND e."postUri" = d.uri;

-- :post_embed_record
DELETE FROM bsky.post_embed_record e
USING differing d
WHERE d.table_name = 'post_embed_record' AND e."postUri" = d.uri
  AND NOT EXISTS (
    SELECT FROM stage_post_record s
    WHERE (s.post_uri, s.embed_uri, s.embed_cid) = (e."postUri", e."embedUri", e."embedCid")
  );

-- :remains
-- Removes feed items, quotes and thread places that remain of posts and reposts without a record.
WITH gone AS (
  SELECT uri, at FROM touched WHERE change = 'deleted'
), reposts_removed AS (
  DELETE FROM bsky.feed_item f USING gone WHERE f.uri = gone.uri
), unquoted AS (
  DELETE FROM bsky.quote q USING gone WHERE q.uri = gone.uri RETURNING q.subject
), recounted AS (
  INSERT INTO delta_post (uri) SELECT subject FROM unquoted
), left_threads AS (
  UPDATE bsky.op_thread_reply o SET "deletedAt" = gone.at
  FROM gone
  WHERE o."rootUri" >= 'at://' || split_part(gone.uri, '/', 3) || '/'
    AND o."rootUri" < 'at://' || split_part(gone.uri, '/', 3) || '0'
    AND o.uri = gone.uri
    AND o."deletedAt" IS NULL
), unlisted AS (
  DELETE FROM bsky.duplicate_record d USING gone WHERE d.uri = gone.uri
)
SELECT;

-- :lacking
-- The records for which the write path's statement for a table is to add what is missing.
WITH others AS (
  DELETE FROM added
)
INSERT INTO added (uri)
SELECT DISTINCT uri FROM differing WHERE table_name = %(table)s;

-- :lacking_of_reposts
-- The same for reposts: one that is a duplicate has no feed item, and one that it had is gone for good.
WITH others AS (
  DELETE FROM added
)
INSERT INTO added (uri)
SELECT DISTINCT d.uri
FROM differing d
JOIN bsky.repost r USING (uri)
WHERE d.table_name = 'feed_item';

-- :gates
-- Gate flags: whether the gate's record is there, or was.
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
      pipeline.had_gate(g.uri, g.thread_gate_uri)) AS thread_gate,
    coalesce(
      (SELECT true FROM bsky.record r WHERE r.uri = g.post_gate_uri AND r.json::jsonb ->> 'post' = g.uri),
      pipeline.had_gate(g.uri, g.post_gate_uri)) AS post_gate
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
-- Posts that are neither replies nor quotes have no flags. Replies below one that had flags are evaluated again.
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

-- :evaluate
-- Replies are evaluated as if a new event affected them.
INSERT INTO judgement (uri, rev, creator, root, parent, live, is_new, was_invalid, was_violating)
SELECT s.uri, s.rev, s.creator, s.reply_root, s.reply_parent, true, false, p."invalidReplyRoot", p."violatesThreadGate"
FROM stage_post s
JOIN bsky.post p USING (uri)
WHERE s.reply_parent IS NOT NULL
  AND NOT EXISTS (SELECT FROM judgement j WHERE j.uri = s.uri AND j.rev = s.rev);

-- :flags_differ
-- Replies whose flags the evaluation is about to change.
INSERT INTO differing (uri, table_name)
SELECT j.uri, 'flags'
FROM judgement j
JOIN bsky.post p USING (uri)
WHERE j.live
  AND (p."invalidReplyRoot", p."violatesThreadGate") IS DISTINCT FROM (
    CASE WHEN j.invalid OR j.violating THEN j.invalid END,
    CASE WHEN j.invalid OR j.violating THEN j.violating END);

-- :below_changed
-- Replies below a post whose flags change, or that is gone, are evaluated again.
WITH found AS (
  DELETE FROM affected
)
INSERT INTO post_event (uri, rev)
SELECT DISTINCT j.uri, j.rev
FROM judgement j
JOIN differing d USING (uri)
WHERE d.table_name = 'flags' AND j.live;

-- :gone_events
INSERT INTO post_event (uri, rev)
SELECT uri, '' FROM touched WHERE change = 'deleted' AND collection = '{nsid.post}';

-- :forget_flags
DELETE FROM differing WHERE table_name = 'flags';

-- :quotes_before
-- Quotes that have their flag before they are evaluated.
INSERT INTO differing (uri, table_name)
SELECT s.uri, 'quote flag set'
FROM stage_post s
JOIN bsky.post p USING (uri)
WHERE p."violatesEmbeddingRules" IS NOT NULL;

-- :note_flags
INSERT INTO changed (table_name, key)
SELECT 'post', uri FROM differing WHERE table_name = 'flags'
UNION
SELECT 'post', s.uri
FROM stage_post s
JOIN bsky.post p USING (uri)
WHERE (p."violatesEmbeddingRules" IS NOT NULL)
  <> EXISTS (SELECT FROM differing d WHERE d.uri = s.uri AND d.table_name = 'quote flag set');

-- :subjects
-- The posts and accounts whose counters the chunk's records move.
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
