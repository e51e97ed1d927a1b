-- Reposts of posts that were deleted later, when another writer brings the deletion.
--
-- Guarantees: whichever of the two commits first, the repost is in no feed once both have. Each has written its own half
-- (the tombstone, the feed item) before it takes the lock (thread.sql), and looks for the other's afterwards: here, and in
-- post.sql (`forget`).

-- :feed_items
WITH gone AS MATERIALIZED (
  SELECT s.uri
  FROM stage_repost s
  CROSS JOIN LATERAL (
    SELECT
    FROM pipeline.tombstone t
    WHERE t.uri = s.subject AND t.rev > s.rev AND t.collection = 'app.bsky.feed.post'
    OFFSET 0
  ) t
)
DELETE FROM bsky.feed_item f
USING gone g
WHERE f.uri = g.uri AND f.uri = ANY (ARRAY(SELECT uri FROM gone));
