-- The states of repositories, as those see and change them who fetch repositories. (The end of an export:
-- sql/apply/export.sql.)
--
-- Guarantees: one row is locked at a time, and no other row with it. What is found of a repository that is complete
-- leaves it `synchronized` while it is fetched once more, and when that fails.

-- :read
-- The states of %(dids)s.
SELECT did, rev, data_cid, chain_from, chain_since, export_rev, sync_state, sync_reason, is_partial,
  active OR status_doubtful, excluded, resync_at::text
FROM pipeline.repo
WHERE did = ANY (%(dids)s);

-- :make
-- Adds the repository %(did)s where it is not known.
INSERT INTO pipeline.repo (did) VALUES (%(did)s) ON CONFLICT DO NOTHING;

-- :begin
-- Notes that %(did)s is being fetched, and returns its state. No row where its account is excluded or deleted: nothing
-- of it is to be fetched.
UPDATE pipeline.repo SET
  sync_state = CASE WHEN sync_state = 'synchronized' THEN sync_state ELSE 'resyncing' END,
  sync_at = CASE WHEN sync_state IN ('synchronized', 'resyncing') THEN sync_at ELSE now() END,
  resync_at = clock_timestamp(),
  resync_oldest = NULL
WHERE did = %(did)s AND NOT excluded AND NOT pipeline.is_deleted(active, status, pds_status)
RETURNING did, rev, data_cid, chain_from, chain_since, export_rev, sync_state, sync_reason, is_partial,
  active OR status_doubtful, excluded, resync_at::text;

-- :fail
-- Notes why fetching %(did)s failed; %(parked)s: that it was given up for now. Of excluded accounts nothing is noted.
UPDATE pipeline.repo SET
  sync_state = CASE WHEN %(parked)s THEN 'error' ELSE 'desynchronized' END,
  sync_reason = %(reason)s,
  sync_at = CASE
    WHEN sync_state = CASE WHEN %(parked)s THEN 'error' ELSE 'desynchronized' END THEN sync_at ELSE now()
  END,
  resync_at = NULL
WHERE did = %(did)s AND sync_state <> 'synchronized' AND NOT excluded;

-- :end
-- Notes that fetching %(did)s failed where that changes no state.
UPDATE pipeline.repo SET resync_at = NULL WHERE did = %(did)s AND resync_at IS NOT NULL;
