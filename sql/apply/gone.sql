-- Reposts and quotes of posts that were deleted later, when another writer brings the deletion.
--
-- Guarantees: whichever of the two commits first, the repost is in no feed and the quote in no list once both have. Each
-- has written its own half (the tombstone; the feed item, the quote) before it takes the lock (thread.sql), and looks for the
-- other's afterwards: here, and in post.sql (`forget`).

-- :feed_items
DELETE FROM bsky.feed_item f
USING (
  SELECT s.uri
  FROM stage_repost s
  CROSS JOIN LATERAL (SELECT FROM pipeline.tombstone t WHERE t.uri = s.subject AND t.rev > s.rev OFFSET 0) t
) g
WHERE f.uri = g.uri;

-- :quotes
WITH unquoted AS (
  DELETE FROM bsky.quote q
  USING (
    SELECT p.uri
    FROM stage_post_record e
    JOIN stage_post p ON p.uri = e.post_uri
    CROSS JOIN LATERAL (SELECT FROM pipeline.tombstone t WHERE t.uri = e.embed_uri AND t.rev > p.rev OFFSET 0) t
    WHERE e.is_quote
  ) g
  WHERE q.uri = g.uri
  RETURNING q.subject
)
INSERT INTO delta_post (uri, quotes)
SELECT subject, -1 FROM unquoted;
