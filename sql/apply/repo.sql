-- Repositories: the newest rev of each, and since which rev every commit is known to be applied.
--
-- Guarantees: the rows of all repositories in the batch are locked first, in order of did, so that two writers of one
-- repository run one after the other. `rev` never goes back. Every rev from `chain_from` to `rev` has been applied:
-- each commit in between says (`since`, `prevData`) that it follows its neighbour, and the first that it follows
-- `chain_since`. Where a chain breaks there is a gap.
-- Of an excluded account (excluded.sql) only the row of pipeline.repo moves.

-- :lock
-- Locks the repositories that are known, and notes in `known_repo` what is stored of them before this batch.
INSERT INTO known_repo
SELECT did, rev, chain_from, data_cid, active, excluded, export_rev, resync_at IS NOT NULL
FROM pipeline.repo
WHERE did = ANY (ARRAY(SELECT did FROM stage_repo UNION SELECT did FROM stage_export UNION SELECT did FROM stage_gap))
ORDER BY did
FOR UPDATE;

-- :make
-- Adds the repositories that are not known: they have no row to lock, and the writer who adds the row has the lock.
-- Returns how many other writers have added in the meantime; `lock_others` locks those.
-- - unknown: repositories of the batch without a row; of gaps only those whose DID may be somebody's.
-- - made: the rows that this statement added.
WITH unknown AS MATERIALIZED (
  SELECT did FROM stage_repo s WHERE NOT EXISTS (SELECT FROM known_repo k WHERE k.did = s.did)
  UNION
  SELECT did FROM stage_export s WHERE NOT EXISTS (SELECT FROM known_repo k WHERE k.did = s.did)
  UNION
  SELECT did
  FROM stage_gap s
  WHERE pipeline.is_did(did) AND NOT EXISTS (SELECT FROM known_repo k WHERE k.did = s.did)
), made AS (
  INSERT INTO pipeline.repo (did)
  SELECT did FROM unknown ORDER BY did
  ON CONFLICT DO NOTHING
  RETURNING did
)
SELECT (SELECT count(*) FROM unknown) - (SELECT count(*) FROM made);

-- :lock_others
-- Locks the repositories that others have added in the meantime, with a commit or because their account is excluded,
-- and notes them in `known_repo`.
INSERT INTO known_repo
SELECT did, rev, chain_from, data_cid, active, excluded, export_rev, resync_at IS NOT NULL
FROM pipeline.repo
WHERE did = ANY (ARRAY(
    SELECT did FROM (SELECT did FROM stage_repo UNION SELECT did FROM stage_export UNION SELECT did FROM stage_gap) s
    EXCEPT
    SELECT did FROM known_repo
  ))
ORDER BY did
FOR UPDATE;

-- :count
-- Counts repositories of which a write or delete may be older than what is applied (late.sql looks at them), may be
-- older than an export, and may be late while the repository is fetched; those that have had a commit before this
-- batch; and those of accounts that are not active (account.sql). Returns also the accounts that are excluded
-- (excluded.sql; null: none).
SELECT
  count(*) FILTER (WHERE s.oldest_rev <= k.rev),
  count(*) FILTER (WHERE s.oldest_rev <= k.export_rev),
  count(*) FILTER (WHERE s.oldest_rev <= k.rev AND k.is_fetched),
  count(k.rev),
  count(*) FILTER (WHERE NOT k.active),
  array_agg(s.did) FILTER (WHERE k.excluded)
FROM (SELECT did, oldest_rev FROM stage_repo UNION ALL SELECT did, NULL FROM stage_export) s
JOIN known_repo k USING (did);

-- :advance
-- Stores the newest commit of each repository, and where its chain of applied commits begins.
-- - chained: the staged repositories; `new_chain_from`: where the chain begins now.
WITH chained AS (
  SELECT s.*,
    CASE
      -- The batch begins where the known chain ends, or overlaps it.
      WHEN s.chain_from = s.first_rev AND k.rev = s.first_since
        AND (s.first_prev_data IS NULL OR k.data_cid IS NULL OR s.first_prev_data = k.data_cid)
        THEN coalesce(k.chain_from, s.chain_from)
      WHEN s.chain_from BETWEEN k.chain_from AND k.rev THEN k.chain_from
      -- The batch repeats known commits, with gaps between them, and then continues the known chain.
      WHEN s.chain_from > s.first_rev AND k.rev = s.chain_since
        AND (s.chain_prev_data IS NULL OR k.data_cid IS NULL OR s.chain_prev_data = k.data_cid)
        THEN coalesce(k.chain_from, s.chain_from)
      ELSE s.chain_from
    END AS new_chain_from
  FROM stage_repo s
  LEFT JOIN known_repo k USING (did)
)
INSERT INTO pipeline.repo AS r
  (did, rev, chain_from, chain_since, commit_cid, data_cid, seq, has_start, resync_oldest)
SELECT did, rev, new_chain_from, CASE WHEN chain_from = first_rev THEN first_since ELSE chain_since END,
  commit_cid, data_cid, seq, NOT first_is_sync AND pipeline.is_first_commit(first_since, first_prev_data), oldest_rev
FROM chained
ORDER BY did
ON CONFLICT (did) DO UPDATE SET
  rev = excluded.rev,
  chain_from = excluded.chain_from,
  chain_since = CASE WHEN excluded.chain_from = r.chain_from THEN r.chain_since ELSE excluded.chain_since END,
  commit_cid = excluded.commit_cid,
  data_cid = excluded.data_cid,
  seq = excluded.seq,
  -- A repository that begins in the stream is complete.
  has_start = r.has_start OR (r.rev IS NULL AND excluded.has_start AND NOT r.excluded),
  sync_state = CASE
    WHEN r.rev IS NULL AND excluded.has_start AND r.sync_state = 'unknown' AND NOT r.excluded THEN 'synchronized'
    ELSE r.sync_state
  END,
  sync_reason = CASE
    WHEN r.rev IS NULL AND excluded.has_start AND r.sync_state = 'unknown' AND NOT r.excluded THEN NULL
    ELSE r.sync_reason
  END,
  sync_at = CASE
    WHEN r.rev IS NULL AND excluded.has_start AND r.sync_state = 'unknown' AND NOT r.excluded THEN now()
    ELSE r.sync_at
  END,
  resync_oldest = CASE WHEN r.resync_at IS NOT NULL THEN least(r.resync_oldest, excluded.resync_oldest) END,
  updated_at = now()
WHERE r.rev IS NULL OR r.rev < excluded.rev;

-- :late_while_fetched
-- Notes the oldest late commit of repositories that are being fetched: its export has to be compared once more.
UPDATE pipeline.repo r SET resync_oldest = least(r.resync_oldest, s.oldest_rev)
FROM stage_repo s
JOIN known_repo k USING (did)
WHERE r.did = s.did
  AND r.did = ANY (ARRAY(SELECT did FROM known_repo WHERE is_fetched))
  AND k.is_fetched
  AND s.oldest_rev <= k.rev;

-- :gaps
-- Notes a gap where a commit does not follow the newest known one, or a #sync names another tree than ours: everything
-- in between is missing until the repository is fetched (gap.sql).
INSERT INTO stage_gap (kind, did, from_text, to_text, links)
SELECT CASE WHEN s.first_is_sync THEN 'sync' ELSE 'chain' END, s.did, k.rev, s.first_rev,
  jsonb_build_object(
    k.rev, jsonb_build_array(NULL, NULL, k.data_cid),
    s.first_rev, jsonb_build_array(s.first_since, s.first_prev_data, s.first_data)
  )
FROM stage_repo s
JOIN known_repo k USING (did)
WHERE s.first_rev > k.rev
  AND (
    (s.first_since IS NOT NULL AND s.first_since <> k.rev)
    OR (s.first_prev_data IS NOT NULL AND s.first_prev_data <> k.data_cid)
    OR (s.first_is_sync AND s.first_data IS DISTINCT FROM k.data_cid)
  );

-- :last_seen
-- Stores the newest commit where the reference keeps it; the AppView serves it as Atproto-Repo-Rev.
INSERT INTO bsky.actor_sync AS a (did, "commitCid", "repoRev")
SELECT did, commit_cid, rev
FROM stage_repo
ORDER BY did
ON CONFLICT (did) DO UPDATE SET "commitCid" = excluded."commitCid", "repoRev" = excluded."repoRev"
WHERE a."repoRev" IS NULL OR a."repoRev" COLLATE "C" < excluded."repoRev" COLLATE "C";

-- :last_seen_but_excluded
-- The same where some accounts of the batch are excluded, without those.
INSERT INTO bsky.actor_sync AS a (did, "commitCid", "repoRev")
SELECT did, commit_cid, rev
FROM stage_repo s
WHERE NOT EXISTS (SELECT FROM known_repo k WHERE k.did = s.did AND k.excluded)
ORDER BY did
ON CONFLICT (did) DO UPDATE SET "commitCid" = excluded."commitCid", "repoRev" = excluded."repoRev"
WHERE a."repoRev" IS NULL OR a."repoRev" COLLATE "C" < excluded."repoRev" COLLATE "C";

-- :actors
-- Adds accounts that are not indexed yet: an account that commits exists. Its handle is resolved outside of the stream
-- (identity.sql queues it); until then readers see `handle.invalid`.
-- - unknown: repositories without a commit before this batch, but for those of excluded accounts.
WITH unknown AS MATERIALIZED (
  SELECT did, indexed_at
  FROM (
    SELECT did, indexed_at FROM stage_repo
    UNION ALL
    SELECT did, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') FROM stage_export
  ) s
  WHERE NOT EXISTS (SELECT FROM known_repo k WHERE k.did = s.did AND (k.rev IS NOT NULL OR k.excluded))
)
INSERT INTO bsky.actor (did, "indexedAt", "upstreamStatus")
SELECT u.did, u.indexed_at, pipeline.upstream_status(r.active OR r.status_doubtful, r.status)
FROM unknown u
CROSS JOIN LATERAL (
  SELECT r.active, r.status, r.status_doubtful FROM pipeline.repo r WHERE r.did = u.did OFFSET 0
) r
ORDER BY u.did
ON CONFLICT (did) DO NOTHING;
