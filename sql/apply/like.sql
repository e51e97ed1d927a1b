-- app.bsky.feed.like -> bsky.like, post_agg."likeCount", notifications `like` and `like-via-repost`.
--
-- Guarantees: one row per (subject, creator), see duplicates.sql; likeCount moves by the rows that really came or went.
-- The subject need not be a post (feed generators and labelers are liked too) and need not be indexed.

-- :stage
CREATE TEMPORARY TABLE stage_like (
  uri text NOT NULL,
  cid text NOT NULL,
  creator text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  subject text NOT NULL,
  subject_cid text NOT NULL,
  created_at text NOT NULL,
  indexed_at text NOT NULL,
  via text,
  via_cid text
) ON COMMIT DELETE ROWS;

-- :remove
WITH gone AS (
  DELETE FROM bsky."like" l
  USING touched t
  WHERE l.uri = t.uri AND t.change <> 'stale'
  RETURNING l.subject
)
INSERT INTO delta_post (uri, likes)
SELECT subject, -1 FROM gone;

-- :add
WITH added AS (
  INSERT INTO bsky."like" (uri, cid, creator, subject, "subjectCid", "createdAt", "indexedAt", via, "viaCid")
  SELECT DISTINCT ON (subject, creator)
    uri, cid, creator, subject, subject_cid, created_at, indexed_at, via, via_cid
  FROM stage_like
  ORDER BY subject, creator, rev, uri COLLATE "C"
  ON CONFLICT DO NOTHING
  RETURNING uri, cid, creator, subject, via, "sortAt", split_part(subject, '/', 3) AS owner
), counted AS (
  INSERT INTO delta_post (uri, likes)
  SELECT subject, 1 FROM added
), notified AS (
  INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
  SELECT owner, uri, cid, creator, 'like', subject, "sortAt"
  FROM added
  WHERE owner <> creator
  UNION ALL
  -- Liking one's own post tells nobody, not even whose repost one found it by.
  SELECT split_part(via, '/', 3), uri, cid, creator, 'like-via-repost', via, "sortAt"
  FROM added
  WHERE via IS NOT NULL AND owner <> creator AND split_part(via, '/', 3) <> creator
)
SELECT count(*) FROM added;
