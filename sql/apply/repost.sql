-- app.bsky.feed.repost -> bsky.repost, feed_item (type `repost`), post_agg."repostCount", notifications `repost` and
-- `repost-via-repost`.
--
-- Guarantees: one row and one feed item per (creator, subject), see duplicates.sql; repostCount moves by the rows that
-- were added or removed.

-- :stage
-- The last state of every record that the batch creates or updates.
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
-- Removes the rows of records that were edited, deleted or demoted, unless they are removed already. Removes their feed
-- items, and counts them off.
WITH gone AS (
  DELETE FROM bsky.repost r
  WHERE r.uri = ANY (ARRAY(SELECT uri FROM touched WHERE change <> 'stale' AND NOT removed))
  RETURNING r.uri, r.subject
), counted AS (
  INSERT INTO delta_post (uri, reposts)
  SELECT subject, -1 FROM gone
)
DELETE FROM bsky.feed_item f
USING gone
WHERE f.uri = gone.uri;

-- :add
-- Adds a row for the first staged record of each natural key; `added` lists the rows that were added.
WITH row AS (
  INSERT INTO bsky.repost (uri, cid, creator, subject, "subjectCid", "createdAt", "indexedAt", via, "viaCid")
  SELECT DISTINCT ON (creator, subject)
    uri, cid, creator, subject, subject_cid, created_at, indexed_at, via, via_cid
  FROM stage_repost
  ORDER BY creator, subject, rev, uri COLLATE "C"
  ON CONFLICT (creator, subject) DO NOTHING
  RETURNING uri
)
INSERT INTO added (uri)
SELECT uri FROM row;

-- :feed
-- Adds a feed item for each row that was added. A post that was deleted since the repost is in nobody's feed; a deleted
-- list, feed generator or other record stays in feeds.
INSERT INTO bsky.feed_item (uri, cid, type, "postUri", "originatorDid", "sortAt")
SELECT s.uri, s.cid, 'repost', s.subject, s.creator, least(s.created_at, s.indexed_at)
FROM stage_repost s
JOIN added USING (uri)
LEFT JOIN LATERAL (
  SELECT true AS deleted
  FROM pipeline.tombstone t
  WHERE t.uri = s.subject AND t.rev > s.rev AND t.collection = '{nsid.post}'
  OFFSET 0
) d ON true
WHERE d.deleted IS NULL
ORDER BY s.uri
ON CONFLICT (uri) DO NOTHING;

-- :count
-- Counts the rows that were added.
INSERT INTO delta_post (uri, reposts)
SELECT subject, 1
FROM stage_repost
JOIN added USING (uri);

-- :notify
-- Notifies the author of the subject, and the author of the repost that this one names in `via`. A repost of one's own
-- post notifies neither.
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT n.did, s.uri, s.cid, s.creator, n.reason, n.subject, least(s.created_at, s.indexed_at)
FROM stage_repost s
JOIN added USING (uri)
CROSS JOIN LATERAL (
  VALUES
    (split_part(s.subject, '/', 3), 'repost', s.subject),
    (split_part(s.via, '/', 3), 'repost-via-repost', s.via)
) n (did, reason, subject)
WHERE n.did IS NOT NULL AND n.did <> s.creator AND split_part(s.subject, '/', 3) <> s.creator
  -- A duplicate promoted after a deletion does not notify again.
  AND NOT EXISTS (
    SELECT FROM promotion c JOIN touched t ON t.uri = c.old_uri WHERE c.new_uri = s.uri AND t.change <> 'demoted');

-- :hide
-- Removes the feed items of staged reposts whose post another writer has deleted later. Whichever of the two commits
-- first, the repost is in no feed once both have: each writes its own half (the tombstone or the feed item) before it
-- takes the cross-repository lock, and looks for the other half afterwards, here and in `forget` of post.sql.
-- - gone: these reposts.
WITH gone AS MATERIALIZED (
  SELECT s.uri
  FROM stage_repost s
  CROSS JOIN LATERAL (
    SELECT
    FROM pipeline.tombstone t
    WHERE t.uri = s.subject AND t.rev > s.rev AND t.collection = '{nsid.post}'
    OFFSET 0
  ) t
)
DELETE FROM bsky.feed_item f
USING gone g
WHERE f.uri = g.uri AND f.uri = ANY (ARRAY(SELECT uri FROM gone));

-- :notified_by_state
-- A query for pair_notification.sql: the accounts that a past or present state `h` of a repost notifies, as `notify`
-- does.
SELECT split_part(h.subject, '/', 3) AS did, 'repost' AS reason, h.subject AS reason_subject
WHERE h.kind = 'app.bsky.feed.repost' AND split_part(h.subject, '/', 3) <> h.creator
UNION ALL
SELECT split_part(h.via, '/', 3), 'repost-via-repost', h.via
WHERE h.kind = 'app.bsky.feed.repost'
  AND split_part(h.subject, '/', 3) <> h.creator
  AND split_part(h.via, '/', 3) <> h.creator

-- :misses
-- A query for pending.sql: the posts that staged reposts show.
SELECT uri, 'subject' AS kind, subject AS missing
FROM stage_repost
WHERE split_part(subject, '/', 4) = '{nsid.post}'

-- :rows_of_post
-- A query for muted_thread.sql: the reposts of a post `m`, which notify its author.
SELECT k.uri, k.cid, k.creator, 'repost' AS reason, k."sortAt" AS sort_at
FROM bsky.repost k
WHERE k.subject = m.uri AND k.creator <> m.creator

-- :staged_relationship
-- A query for pair_notification.sql: what the staged records state, as `kept_relationship` keeps it for past ones.
SELECT uri, rev, creator, 'repost ' || creator || ' ' || subject AS relationship FROM stage_repost

-- :kept_relationship
-- An expression for version.sql: the account and the subject of a past repost.
pipeline.relationship_of(n.uri, b.body)

-- :kept_record
-- An expression for version.sql: what the notifications of a past repost are derived from.
jsonb_strip_nulls(jsonb_build_object('sortAt', n.sort_at, 'via', b.body #> '{via,uri}', 'quiet', n.quiet))

-- :subjects_post_agg
-- A query for sql/repair/post.sql: the posts whose counters the staged records move.
SELECT subject FROM stage_repost

-- :differs
-- Notes staged records whose row or feed item is missing, differs or is superfluous; a rerun repairs them.
INSERT INTO differing (uri, table_name)
SELECT s.uri, 'repost'
FROM stage_repost s
LEFT JOIN bsky.repost l USING (uri)
WHERE (l.cid, l.creator, l.subject, l."subjectCid", l."createdAt", l."indexedAt", l.via, l."viaCid")
  IS DISTINCT FROM (s.cid, s.creator, s.subject, s.subject_cid, s.created_at, s.indexed_at, s.via, s.via_cid)
UNION ALL
SELECT s.uri, 'feed_item'
FROM stage_repost s
JOIN bsky.repost l USING (uri)
LEFT JOIN bsky.feed_item f USING (uri)
WHERE (f.cid, f.type, f."postUri", f."originatorDid", f."sortAt")
    IS DISTINCT FROM (s.cid, 'repost', s.subject, s.creator, least(s.created_at, s.indexed_at))
  AND (
    f.uri IS NOT NULL
    OR NOT EXISTS (
      SELECT FROM pipeline.tombstone t
      WHERE t.uri = s.subject AND t.rev > s.rev AND t.collection = '{nsid.post}'
    )
  )
UNION ALL
-- In the feed although the post was deleted, or although the record is a duplicate.
SELECT s.uri, 'feed_item'
FROM stage_repost s
JOIN bsky.feed_item f USING (uri)
WHERE EXISTS (
    SELECT FROM pipeline.tombstone t
    WHERE t.uri = s.subject AND t.rev > s.rev AND t.collection = '{nsid.post}'
  )
  OR NOT EXISTS (SELECT FROM bsky.repost l WHERE l.uri = s.uri);
