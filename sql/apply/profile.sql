-- app.bsky.actor.profile -> bsky.profile, notification `starterpack-joined`.
--
-- Guarantees: one row per account, by its record `self` (indexing/collections/profile.py), in its newest state. The
-- maker of the starter pack is notified once, when the profile first appears, unless that state of it is quiet; the
-- notification stays.

-- :stage
-- The last state of every record that the batch creates or updates.
CREATE TEMPORARY TABLE stage_profile (
  uri text NOT NULL,
  cid text NOT NULL,
  creator text NOT NULL,
  display_name text,
  description text,
  avatar_cid text,
  banner_cid text,
  joined_via_starter_pack_uri text,
  created_at text NOT NULL,
  indexed_at text NOT NULL
) ON COMMIT DELETE ROWS;

-- :remove
-- Removes the rows of records that were edited or deleted.
DELETE FROM bsky.profile p
WHERE p.uri = ANY (ARRAY(SELECT uri FROM touched WHERE change <> 'stale'));

-- :add
-- Adds the rows of staged records.
INSERT INTO bsky.profile
  (uri, cid, creator, "displayName", description, "avatarCid", "bannerCid", "joinedViaStarterPackUri",
   "createdAt", "indexedAt")
SELECT uri, cid, creator, display_name, description, avatar_cid, banner_cid, joined_via_starter_pack_uri,
  created_at, indexed_at
FROM stage_profile
ORDER BY uri
ON CONFLICT (uri) DO NOTHING;

-- :joined
-- Notifies the maker of the starter pack that a new profile names. A profile is new in its first state, and in its
-- first state after a deletion, also where the batch supersedes that state.
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT split_part(s.pack, '/', 3), s.uri, s.cid, s.did, 'starterpack-joined', s.pack, s.indexed_at
FROM (
  SELECT uri, cid, did, json::jsonb #>> '{joinedViaStarterPack,uri}' AS pack, indexed_at, quiet,
    lag(action) OVER (PARTITION BY uri ORDER BY rev) AS before
  FROM (
    SELECT w.uri, w.cid, w.did, w.action, w.json, w.rev, w.indexed_at, w.quiet
    FROM stage_profile p
    JOIN stage_write w USING (uri)
    UNION ALL
    SELECT uri, cid, did, action, json, rev, indexed_at, quiet
    FROM stage_superseded
    WHERE collection = 'app.bsky.actor.profile' AND uri LIKE '%/self'
  ) states
) s
WHERE s.pack IS NOT NULL
  AND s.quiet IS NOT TRUE
  AND (
    s.before = 'delete'
    OR (
      s.before IS NULL
      AND NOT EXISTS (
        SELECT FROM touched t WHERE t.uri = s.uri AND t.change IN ('updated', 'recreated', 'deleted'))
    )
  );

-- :differs
-- Notes staged records whose row is missing or differs; a rerun repairs them.
INSERT INTO differing (uri, table_name)
SELECT s.uri, 'profile'
FROM stage_profile s
LEFT JOIN bsky.profile l USING (uri)
WHERE (l.cid, l.creator, l."displayName", l.description, l."avatarCid", l."bannerCid", l."joinedViaStarterPackUri",
    l."createdAt", l."indexedAt")
  IS DISTINCT FROM (s.cid, s.creator, s.display_name, s.description, s.avatar_cid, s.banner_cid,
    s.joined_via_starter_pack_uri, s.created_at, s.indexed_at);
