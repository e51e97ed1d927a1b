-- The end of exports of repositories: what the last part of each says of its repository.
--
-- Guarantees: with it, in the same transaction, everything up to the export's rev is in the index, and `export_rev`
-- says so. It is refused where a commit up to that rev was applied while the export was compared, and where a newer
-- export was applied. The repository's rev never goes back. A gap closes only if the export has what is missing.
--
-- What follows from it for the state of the repository: sync_state.sql.

-- :refuse
-- Unmarks the exports that prove nothing, and says so in the state of their repositories, unless these are complete or
-- fetched anew.
-- - refused: why.
-- - unmarked: their rows in `stage_export`.
WITH refused AS MATERIALIZED (
  SELECT e.did, r.asked_again, CASE
    WHEN r.excluded THEN 'its account is excluded'
    WHEN r.asked_again THEN 'it is fetched anew'
    WHEN r.resync_oldest <= e.rev THEN 'older commits came while its export was compared, which has to be done again'
    WHEN r.export_rev > e.rev THEN 'its export is older than one that was applied'
  END AS reason
  FROM stage_export e
  CROSS JOIN LATERAL (
    SELECT r.excluded, r.resync_oldest, r.export_rev,
      e.asked_at IS NOT NULL AND r.resync_at IS DISTINCT FROM e.asked_at::timestamptz AS asked_again
    FROM pipeline.repo r
    WHERE r.did = e.did
    OFFSET 0
  ) r
  WHERE e.is_end
), unmarked AS (
  UPDATE stage_export e SET is_end = false FROM refused f WHERE e.did = f.did AND f.reason IS NOT NULL
)
UPDATE pipeline.repo r SET
  sync_state = 'desynchronized',
  sync_reason = f.reason,
  sync_at = CASE WHEN r.sync_state = 'desynchronized' THEN r.sync_at ELSE now() END,
  resync_at = NULL
FROM refused f
WHERE r.did = f.did
  AND r.did = ANY (ARRAY(SELECT did FROM refused WHERE reason IS NOT NULL))
  AND f.reason IS NOT NULL
  AND NOT f.asked_again
  AND NOT r.excluded
  AND r.sync_state <> 'synchronized';

-- :advance
-- Stores what the exports say of their repositories. A partial one does not say what has been deleted, so it counts for
-- a repository's rev only where nothing of it was known. `has_start`: the chain of the commits known begins at the
-- export's rev or before.
UPDATE pipeline.repo r SET
  export_rev = CASE WHEN e.is_whole THEN e.rev ELSE r.export_rev END,
  rev = CASE WHEN e.leads THEN e.rev ELSE r.rev END,
  commit_cid = CASE WHEN e.leads THEN e.commit_cid ELSE r.commit_cid END,
  data_cid = CASE WHEN e.leads THEN e.data_cid ELSE r.data_cid END,
  seq = CASE WHEN e.leads THEN NULL ELSE r.seq END,
  chain_from = CASE WHEN e.leads THEN e.rev ELSE r.chain_from END,
  chain_since = CASE WHEN NOT e.leads THEN r.chain_since END,
  has_start = r.has_start OR e.leads OR e.rev >= coalesce(r.chain_since, r.chain_from, r.rev),
  is_partial = NOT e.is_whole AND r.export_rev IS NULL,
  resync_at = NULL,
  resync_oldest = NULL,
  updated_at = now()
FROM (
  SELECT e.*, k.rev IS NULL OR (k.rev < e.rev AND e.is_whole) AS leads
  FROM stage_export e
  CROSS JOIN LATERAL (SELECT k.rev FROM pipeline.repo k WHERE k.did = e.did OFFSET 0) k
  WHERE e.is_end
) e
WHERE r.did = e.did AND r.did = ANY (ARRAY(SELECT did FROM stage_export WHERE is_end));

-- :last_seen
-- Stores the newest commit where the reference keeps it.
INSERT INTO bsky.actor_sync AS a (did, "commitCid", "repoRev")
SELECT did, commit_cid, rev
FROM stage_export
WHERE is_end
ORDER BY did
ON CONFLICT (did) DO UPDATE SET "commitCid" = excluded."commitCid", "repoRev" = excluded."repoRev"
WHERE a."repoRev" IS NULL OR a."repoRev" COLLATE "C" < excluded."repoRev" COLLATE "C";

-- :close_gaps
-- Closes the gaps that whole exports fill: those that end at the export's rev or before; those whose end follows the
-- export; a #sync that names the export's tree; and what is missing without a rev, where the export was fetched since.
UPDATE pipeline.gap g SET resolved_at = now()
WHERE g.id = ANY (ARRAY(
  SELECT f.id
  FROM stage_export e
  CROSS JOIN LATERAL (
    SELECT f.id
    FROM pipeline.gap f
    WHERE f.did = e.did AND f.resolved_at IS NULL
      AND f.kind IN ('chain', 'sync', 'commit', 'record', 'repository')
      AND CASE
        WHEN f.to_text IS NULL THEN e.is_fetched
        WHEN f.to_text <= e.rev THEN true
        WHEN f.kind = 'chain' THEN
          f.links -> f.to_text ->> 0 < e.rev
          OR (
            f.links -> f.to_text ->> 0 = e.rev
            AND (f.links -> f.to_text ->> 1 IS NULL OR f.links -> f.to_text ->> 1 = e.data_cid)
          )
        WHEN f.kind = 'sync' THEN f.links -> f.to_text ->> 2 = e.data_cid
      END
    OFFSET 0
  ) f
  WHERE e.is_end AND e.is_whole
));

-- :missing
-- Notes what is missing between an export and the oldest of the commits known, which follows a later rev.
INSERT INTO stage_gap (kind, did, from_text, to_text, links)
SELECT 'chain', e.did, e.rev, r.chain_from, jsonb_build_object(
  e.rev, jsonb_build_array(NULL, NULL, e.data_cid),
  r.chain_from, jsonb_build_array(r.chain_since, NULL, NULL)
)
FROM stage_export e
CROSS JOIN LATERAL (
  SELECT r.chain_from, r.chain_since FROM pipeline.repo r WHERE r.did = e.did AND NOT r.has_start OFFSET 0
) r
WHERE e.is_end AND r.chain_from > e.rev;
