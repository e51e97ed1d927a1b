-- post_agg and profile_agg: the batch's counter movements, one statement a table, rows in order of their key.
--
-- Guarantees: a counter moves by the rows that were added or removed and so equals a recount; concurrent writers take
-- the row locks in one order. Subjects that are not indexed have counters too. The AppView counts bookmarks
-- (bookmarkCount).

-- :posts
-- Adds up `delta_post` by post.
INSERT INTO bsky.post_agg AS a (uri, "likeCount", "replyCount", "repostCount", "quoteCount")
SELECT uri, sum(likes), sum(replies), sum(reposts), sum(quotes)
FROM delta_post
GROUP BY uri
HAVING sum(likes) <> 0 OR sum(replies) <> 0 OR sum(reposts) <> 0 OR sum(quotes) <> 0
ORDER BY uri
ON CONFLICT (uri) DO UPDATE SET
  "likeCount" = a."likeCount" + excluded."likeCount",
  "replyCount" = a."replyCount" + excluded."replyCount",
  "repostCount" = a."repostCount" + excluded."repostCount",
  "quoteCount" = a."quoteCount" + excluded."quoteCount";

-- :profiles
-- Adds up `delta_profile` by account.
INSERT INTO bsky.profile_agg AS a (did, "followersCount", "followsCount", "postsCount")
SELECT did, sum(followers), sum(follows), sum(posts)
FROM delta_profile
GROUP BY did
HAVING sum(followers) <> 0 OR sum(follows) <> 0 OR sum(posts) <> 0
ORDER BY did
ON CONFLICT (did) DO UPDATE SET
  "followersCount" = a."followersCount" + excluded."followersCount",
  "followsCount" = a."followsCount" + excluded."followsCount",
  "postsCount" = a."postsCount" + excluded."postsCount";
