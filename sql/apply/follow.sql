-- app.bsky.graph.follow -> bsky.follow, profile_agg."followersCount" and "followsCount", notification `follow`.
--
-- Guarantees: one row per (creator, subject), see duplicates.sql; both counters move by the rows that were added or
-- removed. Accounts that follow themselves are notified, as in the reference.

-- :stage
-- The last state of every record that the batch creates or updates.
CREATE TEMPORARY TABLE stage_follow (
  uri text NOT NULL,
  cid text NOT NULL,
  creator text NOT NULL,
  rev text COLLATE "C" NOT NULL,
  subject_did text NOT NULL,
  created_at text NOT NULL,
  indexed_at text NOT NULL
) ON COMMIT DELETE ROWS;

-- :remove
-- Removes the rows of records that were edited, deleted or demoted, unless they are removed already.
-- Their counters go down.
WITH gone AS (
  DELETE FROM bsky.follow f
  WHERE f.uri = ANY (ARRAY(SELECT uri FROM touched WHERE change <> 'stale' AND NOT removed))
  RETURNING f.creator, f."subjectDid"
)
INSERT INTO delta_profile (did, followers, follows)
SELECT "subjectDid", -1, 0 FROM gone
UNION ALL
SELECT creator, 0, -1 FROM gone;

-- :add
-- Adds a row for the first staged record of each natural key; `added` lists the rows that were added.
WITH row AS (
  INSERT INTO bsky.follow (uri, cid, creator, "subjectDid", "createdAt", "indexedAt")
  SELECT DISTINCT ON (creator, subject_did)
    uri, cid, creator, subject_did, created_at, indexed_at
  FROM stage_follow
  ORDER BY creator, subject_did, rev, uri COLLATE "C"
  ON CONFLICT (creator, "subjectDid") DO NOTHING
  RETURNING uri
)
INSERT INTO added (uri)
SELECT uri FROM row;

-- :count
-- Counts the rows that were added, for both accounts.
INSERT INTO delta_profile (did, followers, follows)
SELECT n.did, n.followers, n.follows
FROM stage_follow s
JOIN added USING (uri)
CROSS JOIN LATERAL (VALUES (s.subject_did, 1, 0), (s.creator, 0, 1)) n (did, followers, follows);

-- :notify
-- Notifies the followed account of each row that was added.
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT s.subject_did, s.uri, s.cid, s.creator, 'follow', NULL, least(s.created_at, s.indexed_at)
FROM stage_follow s
JOIN added USING (uri)
-- A duplicate promoted after a deletion does not notify again.
WHERE NOT EXISTS (
    SELECT FROM promotion c JOIN touched t ON t.uri = c.old_uri WHERE c.new_uri = s.uri AND t.change <> 'demoted');

-- :notified_by_state
-- A query for pair_notification.sql: the accounts that a past or present state `h` of a follow notifies, as `notify`
-- does.
SELECT h.subject AS did, 'follow' AS reason, NULL AS reason_subject
WHERE h.kind = 'app.bsky.graph.follow'

-- :staged_relationship
-- A query for pair_notification.sql and affected.sql: what the staged records state, as `kept_relationship` keeps it
-- for past ones.
SELECT uri, rev, creator, creator || ' ' || subject_did AS relationship FROM stage_follow

-- :kept_relationship
-- An expression for version.sql: the account and the followed account of a past follow.
pipeline.relationship_of(n.uri, b.body)

-- :kept_record
-- An expression for version.sql: what the notifications of a past follow are derived from.
jsonb_strip_nulls(jsonb_build_object('sortAt', n.sort_at, 'via', b.body #> '{via,uri}', 'quiet', n.quiet))

-- :subjects_profile_agg
-- A query for sql/repair/post.sql: the accounts whose counters the staged records move.
SELECT creator FROM stage_follow UNION SELECT subject_did FROM stage_follow

-- :differs
-- Notes staged records whose row is missing or differs; a rerun repairs them.
INSERT INTO differing (uri, table_name)
SELECT s.uri, 'follow'
FROM stage_follow s
LEFT JOIN bsky.follow l USING (uri)
WHERE (l.cid, l.creator, l."subjectDid", l."createdAt", l."indexedAt")
  IS DISTINCT FROM (s.cid, s.creator, s.subject_did, s.created_at, s.indexed_at);
