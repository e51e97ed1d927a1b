-- app.bsky.feed.repost -> bsky.repost, feed_item (type `repost`), post_agg."repostCount", notifications `repost` and
-- `repost-via-repost`.
--
-- Guarantees: one row and one feed item per (creator, subject), see duplicates.sql; repostCount moves by the rows that
-- really came or went.

-- :stage
CREATE TEMPORARY TABLE stage_repost (
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
  DELETE FROM bsky.repost r
  USING touched t
  WHERE r.uri = t.uri AND t.change <> 'stale'
  RETURNING r.uri, r.subject
), counted AS (
  INSERT INTO delta_post (uri, reposts)
  SELECT subject, -1 FROM gone
)
DELETE FROM bsky.feed_item f
USING gone
WHERE f.uri = gone.uri;

-- :add
WITH added AS (
  INSERT INTO bsky.repost (uri, cid, creator, subject, "subjectCid", "createdAt", "indexedAt", via, "viaCid")
  SELECT DISTINCT ON (creator, subject)
    uri, cid, creator, subject, subject_cid, created_at, indexed_at, via, via_cid
  FROM stage_repost
  ORDER BY creator, subject, rev, uri COLLATE "C"
  ON CONFLICT DO NOTHING
  RETURNING uri, cid, creator, subject, via, "sortAt", split_part(subject, '/', 3) AS owner
), fed AS (
  INSERT INTO bsky.feed_item (uri, cid, type, "postUri", "originatorDid", "sortAt")
  SELECT uri, cid, 'repost', subject, creator, "sortAt"
  FROM added
  -- A post that was deleted since is in nobody's feed.
  WHERE NOT EXISTS (
    SELECT
    FROM pipeline.tombstone t
    JOIN stage_repost s ON s.uri = added.uri
    WHERE t.uri = added.subject AND t.rev > s.rev
  )
  ON CONFLICT (uri) DO NOTHING
), counted AS (
  INSERT INTO delta_post (uri, reposts)
  SELECT subject, 1 FROM added
), notified AS (
  INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
  SELECT owner, uri, cid, creator, 'repost', subject, "sortAt"
  FROM added
  WHERE owner <> creator
  UNION ALL
  SELECT split_part(via, '/', 3), uri, cid, creator, 'repost-via-repost', via, "sortAt"
  FROM added
  WHERE via IS NOT NULL AND owner <> creator AND split_part(via, '/', 3) <> creator
)
SELECT count(*) FROM added;
