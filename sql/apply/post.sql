-- app.bsky.feed.post -> bsky.post, feed_item (type `post`), the five post_embed_* tables, quote, op_thread_reply,
-- post_agg."replyCount" and "quoteCount", profile_agg."postsCount".
--
-- Guarantees: one row per record, its newest state; counters move by the rows that were added or removed. An edit keeps
-- other accounts' quotes of the post, and the feed items of its reposts. Replies and quotes are evaluated, and replies
-- counted, in evaluation.sql and quote_evaluation.sql; post_notification.sql derives the notifications. All of this
-- runs under the cross-repository lock (lock.sql).

-- :stage
-- The last state of every record that the batch creates or updates: the post, its embeds and its mentions.
CREATE TEMPORARY TABLE stage_post (
  uri text NOT NULL,
  cid text NOT NULL,
  creator text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  text text NOT NULL,
  reply_root text,
  reply_root_cid text,
  reply_parent text,
  reply_parent_cid text,
  created_at text NOT NULL,
  indexed_at text NOT NULL,
  langs jsonb,
  tags jsonb
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE stage_post_image (
  post_uri text NOT NULL,
  position text NOT NULL,
  image_cid text NOT NULL,
  alt text NOT NULL
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE stage_post_gallery_image (
  post_uri text NOT NULL,
  position text NOT NULL,
  image_cid text NOT NULL,
  alt text NOT NULL
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE stage_post_external (
  post_uri text NOT NULL,
  uri text NOT NULL,
  title text NOT NULL,
  description text NOT NULL,
  thumb_cid text
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE stage_post_video (
  post_uri text NOT NULL,
  video_cid text NOT NULL,
  alt text
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE stage_post_record (
  post_uri text NOT NULL,
  embed_uri text NOT NULL,
  embed_cid text NOT NULL,
  is_quote boolean NOT NULL
) ON COMMIT DELETE ROWS;

CREATE TEMPORARY TABLE stage_post_mention (
  post_uri text NOT NULL,
  did text NOT NULL
) ON COMMIT DELETE ROWS;

-- :remove
-- Removes the rows of posts that were edited or deleted, and counts them off. A deleted reply is only marked in
-- op_thread_reply: it keeps its place in its author's thread while a reply below it remains. (`op_thread` restores an
-- edited one, unless it has moved to another thread.)
-- - changed: the posts.
-- - gone: their rows in bsky.post; counted_posts, counted_replies: off the counters of their author and parent.
-- - removed_quotes: their rows in bsky.quote; counted_quotes: off the counters of the quoted posts.
-- - images, gallery_images, externals, videos, embedded_records, own_feed_items: their rows in these tables.
-- - ended: stored posts of which the batch has several events, and the time of the first: from then on they are not as
--   they were.
WITH changed AS MATERIALIZED (
  SELECT uri, change, at FROM touched WHERE change <> 'stale' AND collection = 'app.bsky.feed.post'
), gone AS (
  DELETE FROM bsky.post p
  WHERE p.uri = ANY (ARRAY(SELECT uri FROM changed))
  RETURNING p.creator, p."replyParent", p."violatesThreadGate"
), counted_posts AS (
  INSERT INTO delta_profile (did, posts)
  SELECT creator, -1 FROM gone
), counted_replies AS (
  INSERT INTO delta_post (uri, replies)
  SELECT "replyParent", -1
  FROM gone
  WHERE "replyParent" IS NOT NULL AND "violatesThreadGate" IS NOT TRUE
), removed_quotes AS (
  DELETE FROM bsky.quote q
  WHERE q.uri = ANY (ARRAY(SELECT uri FROM changed))
  RETURNING q.subject
), counted_quotes AS (
  INSERT INTO delta_post (uri, quotes)
  SELECT subject, -1 FROM removed_quotes
), images AS (
  DELETE FROM bsky.post_embed_image e WHERE e."postUri" = ANY (ARRAY(SELECT uri FROM changed))
), gallery_images AS (
  DELETE FROM bsky.post_embed_gallery_image e WHERE e."postUri" = ANY (ARRAY(SELECT uri FROM changed))
), externals AS (
  DELETE FROM bsky.post_embed_external e WHERE e."postUri" = ANY (ARRAY(SELECT uri FROM changed))
), videos AS (
  DELETE FROM bsky.post_embed_video e WHERE e."postUri" = ANY (ARRAY(SELECT uri FROM changed))
), embedded_records AS (
  DELETE FROM bsky.post_embed_record e WHERE e."postUri" = ANY (ARRAY(SELECT uri FROM changed))
), own_feed_items AS (
  DELETE FROM bsky.feed_item f WHERE f.uri = ANY (ARRAY(SELECT uri FROM changed))
), ended AS MATERIALIZED (
  SELECT DISTINCT ON (s.uri) s.uri, s.indexed_at AS at
  FROM stage_superseded s
  CROSS JOIN LATERAL (SELECT FROM bsky.post p WHERE p.uri = s.uri AND p.rev < s.rev OFFSET 0) p
  ORDER BY s.uri, s.rev
)
UPDATE bsky.op_thread_reply o SET "deletedAt" = coalesce(e.at, c.at)
FROM changed c
JOIN bsky.post p USING (uri)
LEFT JOIN ended e USING (uri)
WHERE o."rootUri" = p."replyRoot" AND o.uri = c.uri AND o."deletedAt" IS NULL;

-- :forget
-- Deleting a post removes its reposts from feeds and earlier quotes of it from `quote`. A deletion counts also where
-- the post exists again, or was never seen. The removal of an account leaves both to their authors, as if the post had
-- never come: should the account return they are right again.
-- - deleted: the deletions of posts in the batch, the newest of each.
-- - removed_reposts: feed items of reposts that are older than the deletion.
-- - removed_quotes: rows of quotes that are older than the deletion.
WITH deleted AS MATERIALIZED (
  SELECT uri, max(rev) AS rev
  FROM (
    SELECT uri, rev
    FROM stage_delete
    WHERE collection = 'app.bsky.feed.post' AND rev <> pipeline.removal_rev()
    UNION ALL
    SELECT uri, rev FROM stage_superseded WHERE collection = 'app.bsky.feed.post' AND action = 'delete'
  ) d
  GROUP BY uri
), removed_reposts AS (
  DELETE FROM bsky.feed_item f
  USING deleted d, bsky.record r
  WHERE f."postUri" = d.uri AND f.type = 'repost' AND r.uri = f.uri AND r.rev < d.rev
), removed_quotes AS (
  DELETE FROM bsky.quote q
  USING deleted d, bsky.record r
  WHERE q.subject = d.uri AND r.uri = q.uri AND r.rev < d.rev
  RETURNING q.subject
)
INSERT INTO delta_post (uri, quotes)
SELECT subject, -1 FROM removed_quotes;

-- :add
-- Adds the rows of staged posts, with the flags that say whether they have gates; `added` lists the rows that were
-- added.
WITH row AS (
  INSERT INTO bsky.post
    (uri, cid, creator, text, "replyRoot", "replyRootCid", "replyParent", "replyParentCid", "createdAt", "indexedAt",
     langs, tags, rev, "hasThreadGate", "hasPostGate")
  SELECT s.uri, s.cid, s.creator, s.text, s.reply_root, s.reply_root_cid, s.reply_parent, s.reply_parent_cid,
    s.created_at, s.indexed_at, s.langs, s.tags, s.rev,
    -- True: there is a gate. False: there was one. NULL: there never was.
    coalesce(
      (SELECT true FROM bsky.thread_gate g WHERE g."postUri" = s.uri),
      pipeline.had_gate(s.uri, replace(s.uri, '/app.bsky.feed.post/', '/{nsid.threadgate}/'))),
    coalesce(
      (SELECT true FROM bsky.post_gate g WHERE g."postUri" = s.uri),
      pipeline.had_gate(s.uri, replace(s.uri, '/app.bsky.feed.post/', '/{nsid.postgate}/')))
  FROM stage_post s
  ORDER BY s.uri
  ON CONFLICT (uri) DO NOTHING
  RETURNING uri
)
INSERT INTO added (uri)
SELECT uri FROM row;

-- :feed
-- Adds a feed item for each row that was added.
INSERT INTO bsky.feed_item (uri, cid, type, "postUri", "originatorDid", "sortAt")
SELECT s.uri, s.cid, 'post', s.uri, s.creator, least(s.created_at, s.indexed_at)
FROM stage_post s
JOIN added USING (uri)
ORDER BY s.uri
ON CONFLICT (uri) DO NOTHING;

-- :count
-- Counts the rows that were added.
INSERT INTO delta_profile (did, posts)
SELECT creator, 1
FROM stage_post
JOIN added USING (uri);

-- :op_thread
-- Adds the replies of authors in their own threads.
INSERT INTO bsky.op_thread_reply ("rootUri", "parentUri", uri)
SELECT s.reply_root, s.reply_parent, s.uri
FROM stage_post s
JOIN added USING (uri)
WHERE split_part(s.reply_root, '/', 3) = s.creator
ORDER BY s.reply_root, s.uri
ON CONFLICT ("rootUri", uri) DO UPDATE SET "parentUri" = excluded."parentUri", "deletedAt" = NULL;

-- :add_embeds
-- Adds the embeds of staged posts.
-- - images, gallery_images, externals, videos: the rows that were added to these tables.
WITH images AS (
  INSERT INTO bsky.post_embed_image ("postUri", position, "imageCid", alt)
  SELECT post_uri, position, image_cid, alt FROM stage_post_image ORDER BY post_uri, position
  ON CONFLICT DO NOTHING
), gallery_images AS (
  INSERT INTO bsky.post_embed_gallery_image ("postUri", position, "imageCid", alt)
  SELECT post_uri, position, image_cid, alt FROM stage_post_gallery_image ORDER BY post_uri, position
  ON CONFLICT DO NOTHING
), externals AS (
  INSERT INTO bsky.post_embed_external ("postUri", uri, title, description, "thumbCid")
  SELECT post_uri, uri, title, description, thumb_cid FROM stage_post_external ORDER BY post_uri
  ON CONFLICT DO NOTHING
), videos AS (
  INSERT INTO bsky.post_embed_video ("postUri", "videoCid", alt)
  SELECT post_uri, video_cid, alt FROM stage_post_video ORDER BY post_uri
  ON CONFLICT DO NOTHING
)
INSERT INTO bsky.post_embed_record ("postUri", "embedUri", "embedCid")
SELECT post_uri, embed_uri, embed_cid FROM stage_post_record ORDER BY post_uri
ON CONFLICT DO NOTHING;

-- :add_quotes
-- Adds the quotes of staged posts and counts them. A quote of a post that was deleted later is not in bsky.quote.
-- - quoting: the staged quotes.
-- - quoted: the rows that were added.
WITH quoting AS MATERIALIZED (
  SELECT p.uri, p.cid, p.rev, p.created_at, p.indexed_at, e.embed_uri, e.embed_cid
  FROM stage_post_record e
  JOIN stage_post p ON p.uri = e.post_uri
  WHERE e.is_quote
), quoted AS (
  INSERT INTO bsky.quote (uri, cid, subject, "subjectCid", "createdAt", "indexedAt")
  SELECT q.uri, q.cid, q.embed_uri, q.embed_cid, q.created_at, q.indexed_at
  FROM quoting q
  LEFT JOIN LATERAL (
    SELECT true AS deleted FROM pipeline.tombstone t WHERE t.uri = q.embed_uri AND t.rev > q.rev OFFSET 0
  ) d ON true
  WHERE d.deleted IS NULL
  ORDER BY q.uri
  ON CONFLICT (uri) DO NOTHING
  RETURNING subject
)
INSERT INTO delta_post (uri, quotes)
SELECT subject, 1 FROM quoted;

-- :kept_root
-- An expression for version.sql: the root that a past post names. Replies below it are evaluated by its place in a
-- thread.
b.body #>> '{reply,root,uri}'

-- :kept_parent
-- An expression for version.sql: the parent that a past post names.
b.body #>> '{reply,parent,uri}'

-- :kept_mentions
-- An expression for version.sql: the accounts that a past post mentions; its thread gate may admit them.
CASE WHEN NOT n.deleted THEN
  jsonb_path_query_array(b.body, '$.facets[*].features[*] ? (@."$type" == "app.bsky.richtext.facet#mention").did')
END

-- :misses
-- A query for pending.sql: the roots of staged replies, and what staged posts embed. (A root that is the parent is
-- pending as such: `pend` in evaluation.sql.)
SELECT uri, 'root' AS kind, reply_root AS missing
FROM stage_post
WHERE reply_root <> reply_parent AND split_part(reply_root, '/', 4) = 'app.bsky.feed.post'
UNION ALL
SELECT post_uri, CASE WHEN is_quote THEN 'quote' ELSE 'embed' END, embed_uri
FROM stage_post_record
WHERE split_part(embed_uri, '/', 4) IN ({collections})

-- :subjects_post_agg
-- A query for sql/repair/post.sql: the posts whose counters the staged records move, and the posts themselves.
SELECT uri FROM stage_post
UNION
SELECT reply_parent FROM stage_post WHERE reply_parent IS NOT NULL
UNION
SELECT embed_uri FROM stage_post_record WHERE is_quote

-- :subjects_profile_agg
-- A query for sql/repair/post.sql: the accounts whose counters the staged records move.
SELECT creator FROM stage_post

-- :differs
-- Notes staged posts of which a row is missing or differs, by table; a rerun repairs those rows and no others. Flags
-- are evaluated again instead (sql/repair/post.sql).
INSERT INTO differing (uri, table_name)
SELECT s.uri, 'post'
FROM stage_post s
LEFT JOIN bsky.post p USING (uri)
WHERE (p.cid, p.creator, p.text, p."replyRoot", p."replyRootCid", p."replyParent", p."replyParentCid", p."createdAt",
    p."indexedAt", p.langs, p.tags, p.rev)
  IS DISTINCT FROM (s.cid, s.creator, s.text, s.reply_root, s.reply_root_cid, s.reply_parent, s.reply_parent_cid,
    s.created_at, s.indexed_at, s.langs, s.tags, s.rev)
UNION ALL
SELECT s.uri, 'feed_item'
FROM stage_post s
LEFT JOIN bsky.feed_item f USING (uri)
WHERE (f.cid, f.type, f."postUri", f."originatorDid", f."sortAt")
  IS DISTINCT FROM (s.cid, 'post', s.uri, s.creator, least(s.created_at, s.indexed_at))
UNION ALL
SELECT s.uri, 'op_thread_reply'
FROM stage_post s
LEFT JOIN bsky.op_thread_reply o ON o."rootUri" = s.reply_root AND o.uri = s.uri
WHERE split_part(s.reply_root, '/', 3) = s.creator
  AND (o."parentUri" IS DISTINCT FROM s.reply_parent OR o."deletedAt" IS NOT NULL)
UNION ALL
SELECT uri, 'quote'
FROM (
  SELECT s.uri, s.cid, s.created_at, s.indexed_at, e.embed_uri, e.embed_cid
  FROM stage_post s
  LEFT JOIN stage_post_record e
    ON e.post_uri = s.uri
    AND e.is_quote
    AND NOT EXISTS (SELECT FROM pipeline.tombstone t WHERE t.uri = e.embed_uri AND t.rev > s.rev)
) s
LEFT JOIN bsky.quote q USING (uri)
WHERE (q.cid, q.subject, q."subjectCid", q."createdAt", q."indexedAt") IS DISTINCT FROM (
    CASE WHEN s.embed_uri IS NOT NULL THEN s.cid END,
    s.embed_uri,
    s.embed_cid,
    CASE WHEN s.embed_uri IS NOT NULL THEN s.created_at END,
    CASE WHEN s.embed_uri IS NOT NULL THEN s.indexed_at END)
UNION ALL
SELECT coalesce(e."postUri", s.post_uri), 'post_embed_image'
FROM (SELECT * FROM bsky.post_embed_image WHERE "postUri" IN (SELECT uri FROM stage_post)) e
FULL JOIN stage_post_image s ON s.post_uri = e."postUri" AND s.position = e.position
WHERE (e."imageCid", e.alt) IS DISTINCT FROM (s.image_cid, s.alt)
UNION ALL
SELECT coalesce(e."postUri", s.post_uri), 'post_embed_gallery_image'
FROM (SELECT * FROM bsky.post_embed_gallery_image WHERE "postUri" IN (SELECT uri FROM stage_post)) e
FULL JOIN stage_post_gallery_image s ON s.post_uri = e."postUri" AND s.position = e.position
WHERE (e."imageCid", e.alt) IS DISTINCT FROM (s.image_cid, s.alt)
UNION ALL
SELECT coalesce(e."postUri", s.post_uri), 'post_embed_external'
FROM (SELECT * FROM bsky.post_embed_external WHERE "postUri" IN (SELECT uri FROM stage_post)) e
FULL JOIN stage_post_external s ON s.post_uri = e."postUri"
WHERE (e.uri, e.title, e.description, e."thumbCid") IS DISTINCT FROM (s.uri, s.title, s.description, s.thumb_cid)
UNION ALL
SELECT coalesce(e."postUri", s.post_uri), 'post_embed_video'
FROM (SELECT * FROM bsky.post_embed_video WHERE "postUri" IN (SELECT uri FROM stage_post)) e
FULL JOIN stage_post_video s ON s.post_uri = e."postUri"
WHERE (e."videoCid", e.alt) IS DISTINCT FROM (s.video_cid, s.alt)
UNION ALL
SELECT coalesce(e."postUri", s.post_uri), 'post_embed_record'
FROM (SELECT * FROM bsky.post_embed_record WHERE "postUri" IN (SELECT uri FROM stage_post)) e
FULL JOIN stage_post_record s ON s.post_uri = e."postUri" AND s.embed_uri = e."embedUri"
WHERE e."embedCid" IS DISTINCT FROM s.embed_cid;
