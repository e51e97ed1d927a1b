-- app.bsky.graph.follow -> bsky.follow, profile_agg."followersCount" and "followsCount", notification `follow`.
--
-- Guarantees: one row per (creator, subject), see duplicates.sql; both counters move by the rows that really came or
-- went. Who follows himself is told so, as in the reference.

-- :stage
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
INSERT INTO delta_profile (did, followers, follows)
SELECT n.did, n.followers, n.follows
FROM stage_follow s
JOIN added USING (uri)
CROSS JOIN LATERAL (VALUES (s.subject_did, 1, 0), (s.creator, 0, 1)) n (did, followers, follows);

-- :notify
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT s.subject_did, s.uri, s.cid, s.creator, 'follow', NULL, least(s.created_at, s.indexed_at)
FROM stage_follow s
JOIN added USING (uri)
-- Who takes a deleted one's place brings no news.
WHERE NOT EXISTS (
    SELECT FROM succession c JOIN touched t ON t.uri = c.old_uri WHERE c.new_uri = s.uri AND t.change <> 'demoted');

-- :notified_by_state
-- Whom a past or present state `h` notifies (told_pair.sql), as `notify` does.
SELECT h.subject AS did, 'follow' AS reason, NULL AS reason_subject
WHERE h.kind = 'app.bsky.graph.follow'

-- :staged_relationship
-- Who follows whom by the staged records, as `kept_relationship` keeps it of past ones.
SELECT uri, rev, creator, creator || ' ' || subject_did AS relationship FROM stage_follow

-- :kept_relationship
-- Of a past follow (version.sql): whom it is by and what it is of.
pipeline.fact_of(n.uri, b.body)

-- :kept_record
-- Its notifications follow from these.
jsonb_strip_nulls(jsonb_build_object('sortAt', n.sort_at, 'via', b.body #> '{via,uri}'))

-- :subjects_profile_agg
-- The accounts whose counters the staged records move: a rerun recounts them.
SELECT creator FROM stage_follow UNION SELECT subject_did FROM stage_follow

-- :differs
-- Staged records whose row is missing or says something else; a rerun repairs them.
INSERT INTO differing (uri, table_name)
SELECT s.uri, 'follow'
FROM stage_follow s
LEFT JOIN bsky.follow l USING (uri)
WHERE (l.cid, l.creator, l."subjectDid", l."createdAt", l."indexedAt")
  IS DISTINCT FROM (s.cid, s.creator, s.subject_did, s.created_at, s.indexed_at);
