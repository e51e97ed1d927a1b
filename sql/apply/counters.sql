-- post_agg and profile_agg: the batch's movements added up, one statement a table, rows in order of their key.
--
-- Guarantees: a counter moves by what really came or went and so equals a recount; the row locks of concurrent writers
-- are taken in one order. Subjects that are not indexed have counters too. bookmarkCount belongs to others.

-- :posts
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
