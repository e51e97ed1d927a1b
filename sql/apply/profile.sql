-- app.bsky.actor.profile -> bsky.profile, notification `starterpack-joined`.
--
-- Guarantees: one row per account, by its record `self` (indexing/collections/profile.py), in its newest state. The maker of the
-- starter pack is told once, when the profile first appears, and stays told.

-- :stage
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
DELETE FROM bsky.profile p
USING touched t
WHERE p.uri = t.uri AND t.change <> 'stale';

-- :add
WITH added AS (
  INSERT INTO bsky.profile
    (uri, cid, creator, "displayName", description, "avatarCid", "bannerCid", "joinedViaStarterPackUri",
     "createdAt", "indexedAt")
  SELECT uri, cid, creator, display_name, description, avatar_cid, banner_cid, joined_via_starter_pack_uri,
    created_at, indexed_at
  FROM stage_profile
  ORDER BY uri
  ON CONFLICT (uri) DO NOTHING
  RETURNING uri, cid, creator, "joinedViaStarterPackUri", "indexedAt"
)
INSERT INTO new_notification (did, record_uri, record_cid, author, reason, reason_subject, sort_at)
SELECT split_part("joinedViaStarterPackUri", '/', 3), uri, cid, creator, 'starterpack-joined',
  "joinedViaStarterPackUri", "indexedAt"
FROM added
WHERE "joinedViaStarterPackUri" IS NOT NULL;
