-- app.bsky.feed.like -> bsky.like, post_agg."likeCount", notifications `like` and `like-via-repost`.
--
-- Guarantees: one row per (subject, creator), see duplicates.sql; likeCount moves by the rows that were added or
-- removed. The subject need not be a post (feed generators and labelers are liked too) and need not be indexed.

-- :stage
-- The last state of every record that the batch creates or updates.
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
-- Removes the rows of records that were edited, deleted or demoted, unless they are removed already.
-- Their counters go down.
WITH gone AS (
  DELETE FROM bsky."like" l
  WHERE l.uri = ANY (ARRAY(SELECT uri FROM touched WHERE change <> 'stale' AND NOT removed))
  RETURNING l.subject
)
INSERT INTO delta_post (uri, likes)
SELECT subject, -1 FROM gone;

-- :add
-- Adds a row for the first staged record of each natural key; `added` lists the rows that were added.
WITH row AS (
  INSERT INTO bsky."like" (uri, cid, creator, subject, "subjectCid", "createdAt", "indexedAt", via, "viaCid")
  SELECT DISTINCT ON (subject, creator)
    uri, cid, creator, subject, subject_cid, created_at, indexed_at, via, via_cid
  FROM stage_like
  ORDER BY subject, creator, rev, uri COLLATE "C"
  ON CONFLICT (subject, creator) DO NOTHING
  RETURNING uri
)
INSERT INTO added (uri)
SELECT uri FROM row;

-- :count
-- Counts the rows that were added.
INSERT INTO delta_post (uri, likes)
SELECT subject, 1
FROM stage_like
JOIN added USING (uri);

-- :notify
-- Notifies the author of the subject, and the author of the repost that the like names in `via`. A like of one's own
-- post notifies neither.
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT n.did, s.uri, s.cid, s.creator, n.reason, n.subject, least(s.created_at, s.indexed_at)
FROM stage_like s
JOIN added USING (uri)
CROSS JOIN LATERAL (
  VALUES
    (split_part(s.subject, '/', 3), 'like', s.subject),
    (split_part(s.via, '/', 3), 'like-via-repost', s.via)
) n (did, reason, subject)
WHERE n.did IS NOT NULL AND n.did <> s.creator AND split_part(s.subject, '/', 3) <> s.creator
  -- A duplicate promoted after a deletion does not notify again.
  AND NOT EXISTS (
    SELECT FROM promotion c JOIN touched t ON t.uri = c.old_uri WHERE c.new_uri = s.uri AND t.change <> 'demoted');

-- :notified_by_state
-- A query for pair_notification.sql: the accounts that a past or present state `h` of a like notifies, as `notify`
-- does.
SELECT split_part(h.subject, '/', 3) AS did, 'like' AS reason, h.subject AS reason_subject
WHERE h.kind = 'app.bsky.feed.like' AND split_part(h.subject, '/', 3) <> h.creator
UNION ALL
SELECT split_part(h.via, '/', 3), 'like-via-repost', h.via
WHERE h.kind = 'app.bsky.feed.like'
  AND split_part(h.subject, '/', 3) <> h.creator
  AND split_part(h.via, '/', 3) <> h.creator

-- :rows_of_post
-- A query for muted_thread.sql: the likes of a post `m`, which notify its author.
SELECT k.uri, k.cid, k.creator, 'like' AS reason, k."sortAt" AS sort_at
FROM bsky."like" k
WHERE k.subject = m.uri AND k.creator <> m.creator

-- :staged_relationship
-- A query for pair_notification.sql: what the staged records state, as `kept_relationship` keeps it for past ones.
SELECT uri, rev, creator, 'like ' || creator || ' ' || subject AS relationship FROM stage_like

-- :kept_relationship
-- An expression for version.sql: the account and the subject of a past like.
pipeline.relationship_of(n.uri, b.body)

-- :kept_record
-- An expression for version.sql: what the notifications of a past like are derived from.
jsonb_strip_nulls(jsonb_build_object('sortAt', n.sort_at, 'via', b.body #> '{via,uri}', 'quiet', n.quiet))

-- :subjects_post_agg
-- A query for sql/repair/post.sql: the posts whose counters the staged records move.
SELECT subject FROM stage_like

-- :differs
-- Notes staged records whose row is missing or differs; a rerun repairs them.
INSERT INTO differing (uri, table_name)
SELECT s.uri, 'like'
FROM stage_like s
LEFT JOIN bsky."like" l USING (uri)
WHERE (l.cid, l.creator, l.subject, l."subjectCid", l."createdAt", l."indexedAt", l.via, l."viaCid")
  IS DISTINCT FROM (s.cid, s.creator, s.subject, s.subject_cid, s.created_at, s.indexed_at, s.via, s.via_cid);
