-- pipeline.version: events of records that are not, or no longer, the record's current state.
--
-- Guarantees: whatever the order of arrival and the grouping into batches, `record` and `version` together hold every
-- event of every record once. `new_version` collects the batch's events. Whether a past reply was valid is evaluated
-- again in evaluation.sql, under the cross-repository lock: another writer may bring what it depends on.
--
-- Placeholders (store/placeholders.py), filled from what collections declare of their history: {timed} are the
-- collections of which the time is kept, {time_of_row} looks it up in their tables, {timed_stages} are their staged
-- rows; {kept_root}, ... are WHEN branches with the `kept_...` sections of the collections' own files;
-- {decides_on_posts} are the collections that posts are evaluated by; {nsid.post} is the NSID of posts.

-- :stage
-- The batch's events that go to pipeline.version.
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
  quiet boolean,                         -- true: it notified nobody
  unseen boolean NOT NULL DEFAULT false  -- nobody ever saw this state
) ON COMMIT DELETE ROWS;

-- :replaced
-- Notes states that writes are about to replace. An update replaces one. A creation does so where the record was
-- deleted before, in this batch or in a commit that has not come yet, and where it is of an export; it replaces none
-- where its commit says that it follows the newest one known. A state of which late.sql finds that its rev, that of the
-- record's key, was guessed is none.
-- - unchained: repositories whose first commit does not follow the newest known one.
-- - replacing: writes that may replace a state.
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
    OR s.did IN (SELECT did FROM stage_export)
    OR NOT EXISTS (SELECT FROM stage_repo)
)
INSERT INTO new_version (uri, rev, collection, did, deleted, json, cid, sort_at, indexed_at, quiet)
SELECT s.uri, r.rev, s.collection, r.did, false, r.json, r.cid,
  CASE s.collection
    {time_of_row}
  END,
  r."indexedAt", r.quiet
FROM replacing s
CROSS JOIN LATERAL (SELECT * FROM bsky.record r WHERE r.uri = s.uri AND r.rev < s.rev OFFSET 0) r
WHERE r.rev <> split_part(r.uri, '/', 5) OR s.uri NOT IN (SELECT uri FROM export_state);

-- :deleted
-- Notes states that deletions are about to remove, and the deletions themselves.
INSERT INTO new_version (uri, rev, collection, did, deleted, json, cid, sort_at, indexed_at, quiet)
SELECT r.uri, r.rev, s.collection, r.did, false, r.json, r.cid,
  CASE s.collection
    {time_of_row}
  END,
  r."indexedAt", r.quiet
FROM stage_delete s
CROSS JOIN LATERAL (SELECT * FROM bsky.record r WHERE r.uri = s.uri AND r.rev < s.rev OFFSET 0) r
UNION ALL
SELECT s.uri, s.rev, s.collection, s.did, true, NULL, NULL, s.indexed_at, NULL, s.quiet
FROM stage_delete s;

-- :overtaken
-- Notes writes that came after something newer, and those that the batch itself supersedes.
-- - timed: staged records of the collections of which the time is kept.
WITH timed AS MATERIALIZED (
  {timed_stages}
)
INSERT INTO new_version (uri, rev, collection, did, deleted, json, cid, sort_at, indexed_at, quiet, unseen)
SELECT s.uri, s.rev, s.collection, s.did, false, s.json, s.cid, least(v.created_at, s.indexed_at), s.indexed_at,
  s.quiet, true
FROM stage_write s
JOIN touched t USING (uri)
LEFT JOIN timed v USING (uri)
WHERE t.change = 'stale'
  AND NOT EXISTS (SELECT FROM bsky.record r WHERE r.uri = s.uri AND r.rev = s.rev)
UNION ALL
SELECT s.uri, s.rev, s.collection, s.did, s.action = 'delete', s.json, s.cid,
  least(coalesce(s.created_at, v.created_at), s.indexed_at), s.indexed_at, s.quiet, true
FROM stage_superseded s
LEFT JOIN timed v ON v.uri = s.uri AND v.rev = s.rev AND s.action <> 'delete';

-- :untimed
-- Returns past states of duplicates: no table has their time, so their records are read again (`time`).
SELECT collection, uri, cid, did, rev, json, indexed_at
FROM new_version
WHERE collection IN ({timed})
  AND NOT deleted AND sort_at IS NULL;

-- :time
-- Sets the times that were read from these records.
UPDATE new_version n SET sort_at = t.sort_at
FROM unnest(%(uris)s::text[], %(revs)s::text[], %(sort_ats)s::text[]) t (uri, rev, sort_at)
WHERE n.uri = t.uri AND n.rev = t.rev;

-- :keep
-- Writes the events. The columns are what others are evaluated by, read from the record's JSON.
INSERT INTO pipeline.version
  (uri, rev, collection, deleted, root, parent, mentions, relationship, record)
SELECT DISTINCT ON (n.uri, n.rev)
  n.uri,
  n.rev,
  n.collection,
  n.deleted,
  CASE n.collection
    {kept_root}
  END,
  CASE n.collection
    {kept_parent}
  END,
  CASE n.collection
    {kept_mentions}
  END,
  CASE n.collection
    {kept_relationship}
  END,
  CASE n.collection
    {kept_record}
    WHEN '{nsid.post}' THEN NULL  -- replies and quotes are evaluated by the columns above alone
    -- A record of any other collection may have replies, which are evaluated by these keys of it.
    ELSE CASE WHEN b.body ?| ARRAY['reply', 'allow', 'hiddenReplies'] THEN b.body END
  END
FROM new_version n
CROSS JOIN LATERAL (SELECT n.json::jsonb AS body) b
ORDER BY n.uri, n.rev
ON CONFLICT (uri, rev) DO NOTHING;

-- :deciding
-- Returns how many of the events are of collections that posts are evaluated by.
SELECT count(*)
FROM new_version
WHERE collection IN ({decides_on_posts});

-- :op_thread
-- Adds authors' replies in their own threads, as deleted: such a reply keeps its place in the thread even if it was
-- never live, or never live in that thread. It was deleted when the record's next event was; where that came in an
-- earlier batch, its time is not known, and the reply's own time stands for it. The rows of posts come before: what the
-- batch ends is marked as deleted, and what is live has no time of deletion and stays as it is.
-- - reply: the replies.
-- - event: all events of the batch.
WITH reply AS MATERIALIZED (
  SELECT v.root, v.parent, v.uri, v.rev, n.indexed_at
  FROM new_version n
  CROSS JOIN LATERAL (SELECT * FROM pipeline.version v WHERE v.uri = n.uri AND v.rev = n.rev OFFSET 0) v
  WHERE n.unseen
    AND v.parent IS NOT NULL
    AND split_part(v.root, '/', 3) = n.did
), event AS (
  SELECT uri, rev, coalesce(indexed_at, sort_at) AS at FROM new_version
  UNION ALL
  SELECT uri, rev, indexed_at FROM stage_write
)
INSERT INTO bsky.op_thread_reply AS o ("rootUri", "parentUri", uri, "deletedAt")
SELECT DISTINCT ON (r.root, r.uri)
  r.root, r.parent, r.uri,
  coalesce(e.at, r.indexed_at, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'))
FROM reply r
LEFT JOIN event e ON e.uri = r.uri AND e.rev > r.rev
ORDER BY r.root, r.uri, r.rev DESC, e.rev
ON CONFLICT ("rootUri", uri) DO UPDATE SET "parentUri" = excluded."parentUri", "deletedAt" = excluded."deletedAt"
WHERE o."deletedAt" COLLATE "C" <= excluded."deletedAt" COLLATE "C";
