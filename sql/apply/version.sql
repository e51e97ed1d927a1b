-- pipeline.version: events of records that are not, or no longer, the record's current state.
--
-- Guarantees: whatever the order of arrival and the grouping into batches, `record` and `version` together hold every
-- event of every record once. `new_version` collects the batch's; bodies are read off the record's JSON. Whether a past
-- reply was valid is judged again in thread.sql, under its lock: another writer may be about to say otherwise.

-- :stage
CREATE TEMPORARY TABLE new_version ( -- long rows
  uri text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  collection text NOT NULL,
  did text NOT NULL,
  deleted boolean NOT NULL,
  json text,
  cid text,
  sort_at text,                          -- of a deletion: when it was
  indexed_at text,
  unseen boolean NOT NULL DEFAULT false  -- nobody ever saw this state
) ON COMMIT DELETE ROWS;

-- What updates are about to replace, and what was deleted and created again, be it within the batch or between two
-- commits that have not come yet: where a commit says that it follows the newest one known, a creation replaces nothing.
-- :replaced
WITH unchained AS MATERIALIZED (
  SELECT did
  FROM stage_repo s
  JOIN known_repo k USING (did)
  WHERE (s.chain_from = s.first_rev AND s.first_since = k.rev) IS NOT TRUE
), replacing AS MATERIALIZED (
  SELECT s.uri, s.collection, s.rev
  FROM stage_write s
  WHERE s.action = 'update'
    OR s.uri IN (SELECT uri FROM stage_superseded)
    OR s.did IN (SELECT did FROM unchained)
    OR NOT EXISTS (SELECT FROM stage_repo)
)
INSERT INTO new_version (uri, rev, collection, did, deleted, json, cid, sort_at, indexed_at)
SELECT s.uri, r.rev, s.collection, r.did, false, r.json, r.cid,
  CASE s.collection
    WHEN 'app.bsky.feed.like' THEN (SELECT "sortAt" FROM bsky."like" WHERE uri = s.uri)
    WHEN 'app.bsky.feed.repost' THEN (SELECT "sortAt" FROM bsky.repost WHERE uri = s.uri)
    WHEN 'app.bsky.graph.follow' THEN (SELECT "sortAt" FROM bsky.follow WHERE uri = s.uri)
    WHEN 'app.bsky.graph.verification' THEN (SELECT "sortedAt" FROM bsky.verification WHERE uri = s.uri)
  END,
  r."indexedAt"
FROM replacing s
CROSS JOIN LATERAL (SELECT * FROM bsky.record r WHERE r.uri = s.uri AND r.rev < s.rev OFFSET 0) r;

-- What deletions are about to remove, and the deletions themselves.
-- :deleted
INSERT INTO new_version (uri, rev, collection, did, deleted, json, cid, sort_at, indexed_at)
SELECT r.uri, r.rev, s.collection, r.did, false, r.json, r.cid,
  CASE s.collection
    WHEN 'app.bsky.feed.like' THEN (SELECT "sortAt" FROM bsky."like" WHERE uri = s.uri)
    WHEN 'app.bsky.feed.repost' THEN (SELECT "sortAt" FROM bsky.repost WHERE uri = s.uri)
    WHEN 'app.bsky.graph.follow' THEN (SELECT "sortAt" FROM bsky.follow WHERE uri = s.uri)
    WHEN 'app.bsky.graph.verification' THEN (SELECT "sortedAt" FROM bsky.verification WHERE uri = s.uri)
  END,
  r."indexedAt"
FROM stage_delete s
CROSS JOIN LATERAL (SELECT * FROM bsky.record r WHERE r.uri = s.uri AND r.rev < s.rev OFFSET 0) r
UNION ALL
SELECT s.uri, s.rev, s.collection, s.did, true, NULL, NULL, s.indexed_at, NULL
FROM stage_delete s;

-- Writes that came after something newer, and those that the batch itself supersedes.
-- :overtaken
WITH timed AS MATERIALIZED (
  SELECT uri, rev, created_at FROM stage_like
  UNION ALL
  SELECT uri, rev, created_at FROM stage_repost
  UNION ALL
  SELECT uri, rev, created_at FROM stage_follow
  UNION ALL
  SELECT uri, rev, created_at FROM stage_verification
)
INSERT INTO new_version (uri, rev, collection, did, deleted, json, cid, sort_at, indexed_at, unseen)
SELECT s.uri, s.rev, s.collection, s.did, false, s.json, s.cid, least(v.created_at, s.indexed_at), s.indexed_at, true
FROM stage_write s
JOIN touched t USING (uri)
LEFT JOIN timed v USING (uri)
WHERE t.change = 'stale'
  AND NOT EXISTS (SELECT FROM bsky.record r WHERE r.uri = s.uri AND r.rev = s.rev)
UNION ALL
SELECT s.uri, s.rev, s.collection, s.did, s.action = 'delete', s.json, s.cid,
  least(coalesce(s.created_at, v.created_at), s.indexed_at), s.indexed_at, true
FROM stage_superseded s
LEFT JOIN timed v ON v.uri = s.uri AND v.rev = s.rev AND s.action <> 'delete';

-- Likes, reposts, follows and verifications that were duplicates: no table knows their time, what they say is read anew.
-- :untimed
SELECT collection, uri, cid, did, rev, json, indexed_at
FROM new_version
WHERE collection IN (
    'app.bsky.feed.like', 'app.bsky.feed.repost', 'app.bsky.graph.follow', 'app.bsky.graph.verification')
  AND NOT deleted AND sort_at IS NULL;

-- :time
UPDATE new_version n SET sort_at = t.sort_at
FROM unnest(%(uris)s::text[], %(revs)s::text[], %(sort_ats)s::text[]) t (uri, rev, sort_at)
WHERE n.uri = t.uri AND n.rev = t.rev;

-- :keep
INSERT INTO pipeline.version
  (uri, rev, collection, deleted, root, parent, mentions, fact, record)
SELECT DISTINCT ON (n.uri, n.rev)
  n.uri,
  n.rev,
  n.collection,
  n.deleted,
  CASE WHEN n.collection = 'app.bsky.feed.post' THEN b.body #>> '{reply,root,uri}' END,
  CASE WHEN n.collection = 'app.bsky.feed.post' THEN b.body #>> '{reply,parent,uri}' END,
  CASE
    WHEN n.collection = 'app.bsky.feed.post' AND NOT n.deleted THEN
      jsonb_path_query_array(
        b.body, '$.facets[*].features[*] ? (@."$type" == "app.bsky.richtext.facet#mention").did')
  END,
  CASE n.collection
    WHEN 'app.bsky.graph.listitem' THEN (b.body ->> 'list') || ' ' || (b.body ->> 'subject')
    WHEN 'app.bsky.graph.verification' THEN 'verified ' || n.did || ' ' || (b.body ->> 'subject')
    ELSE pipeline.fact_of(n.uri, b.body)
  END,
  CASE
    WHEN n.collection IN ('app.bsky.feed.threadgate', 'app.bsky.feed.postgate', 'app.bsky.notification.declaration')
      THEN b.body
    WHEN n.collection = 'app.bsky.graph.verification' THEN jsonb_build_object('cid', n.cid, 'sortAt', n.sort_at)
    WHEN n.collection IN ('app.bsky.feed.like', 'app.bsky.feed.repost', 'app.bsky.graph.follow')
      THEN jsonb_strip_nulls(jsonb_build_object('sortAt', n.sort_at, 'via', b.body #> '{via,uri}'))
    -- What replies below it are judged by, should it have that.
    WHEN n.collection <> 'app.bsky.feed.post' AND b.body ?| ARRAY['reply', 'allow', 'hiddenReplies'] THEN b.body
  END
FROM new_version n
CROSS JOIN LATERAL (SELECT n.json::jsonb AS body) b
ORDER BY n.uri, n.rev
ON CONFLICT (uri, rev) DO NOTHING;

-- How many there are of collections by which posts are judged.
-- :deciding
SELECT count(*)
FROM new_version
WHERE collection IN (
    'app.bsky.feed.post', 'app.bsky.feed.threadgate', 'app.bsky.feed.postgate', 'app.bsky.graph.follow',
    'app.bsky.graph.listitem', 'app.bsky.notification.declaration');

-- A reply of an author in his own thread keeps its place there also when nobody ever saw it alive, or in that thread.
-- :op_thread
INSERT INTO bsky.op_thread_reply ("rootUri", "parentUri", uri, "deletedAt")
SELECT v.root, v.parent, v.uri, coalesce(n.indexed_at, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
FROM new_version n
CROSS JOIN LATERAL (SELECT * FROM pipeline.version v WHERE v.uri = n.uri AND v.rev = n.rev OFFSET 0) v
WHERE n.unseen
  AND v.parent IS NOT NULL
  AND split_part(v.root, '/', 3) = n.did
ORDER BY v.root, v.uri
ON CONFLICT DO NOTHING;
