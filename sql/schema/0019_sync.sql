-- Whether each repository is complete, and why not.
--
-- Guarantees: a repository that is `synchronized` has everything up to its rev in the index. What contradicts that
-- (a gap of it) changes the state in the same transaction, and queues the repository. An excluded account is never
-- queued.

-- The column `sync_state` is in schema/online/0019_sync.sql.
ALTER TABLE pipeline.repo
    ADD COLUMN sync_reason text,
    ADD COLUMN sync_at timestamptz,
    ADD COLUMN is_partial boolean NOT NULL DEFAULT false,
    ADD COLUMN has_start boolean NOT NULL DEFAULT false,
    ADD COLUMN export_rev text COLLATE "C",
    ADD COLUMN chain_since text COLLATE "C",
    ADD COLUMN resync_at timestamptz,
    ADD COLUMN resync_oldest text COLLATE "C";
COMMENT ON COLUMN pipeline.repo.sync_state IS
    'unknown: only what the stream brought is indexed; synchronized: everything up to rev is; desynchronized: something '
    'is missing, and the repository is queued; resyncing: it is being fetched; error: fetching was given up for now '
    '(sync_reason).';
COMMENT ON COLUMN pipeline.repo.sync_reason IS 'Why it is in this state, in words; null: nothing is to be said.';
COMMENT ON COLUMN pipeline.repo.sync_at IS 'Since when it has been in this state; null: from the beginning.';
COMMENT ON COLUMN pipeline.repo.is_partial IS 'Only its newest records were fetched (APPVIEW_BACKFILL_DAYS).';
COMMENT ON COLUMN pipeline.repo.has_start IS
    'Everything is indexed but for what its open gaps name: its first commit came by the stream, or an export was '
    'applied whole (of a partial one: everything since some day).';
COMMENT ON COLUMN pipeline.repo.export_rev IS
    'Rev of the newest export that was applied whole: commits up to it that arrive later change nothing; null: none was.';
COMMENT ON COLUMN pipeline.repo.chain_since IS
    'The rev that the commit at chain_from says it follows; null: it says nothing, or is the first.';
COMMENT ON COLUMN pipeline.repo.resync_at IS
    'When the fetching that is under way began, which names it; null: none is. It stays when its process is killed.';
COMMENT ON COLUMN pipeline.repo.resync_oldest IS
    'Oldest rev that was applied since resync_at: an export of that rev or a later one has to be compared again; empty: '
    'something without a rev is missing since then; null: nothing came.';

CREATE FUNCTION pipeline.is_first_commit(since text, prev_data text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT since IS NULL
        AND coalesce(prev_data, '') IN ('', 'bafyreie5737gdxlw5i64vzichcalba3z2v5n6icifvx5xytvske7mr3hpm');
END;
COMMENT ON FUNCTION pipeline.is_first_commit IS
    'Whether a commit is the first of its repository: it follows none, and changes no tree or the empty one.';

CREATE FUNCTION pipeline.is_did(did text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT did ~ '^did:[a-z]+:[a-zA-Z0-9._:%-]*[a-zA-Z0-9._-]$' AND length(did) <= 2048;
END;
COMMENT ON FUNCTION pipeline.is_did IS 'Whether a text has the syntax of a DID.';

COMMENT ON COLUMN pipeline.backfill_queue.reason IS
    'Why: discovered, new, requested; the kind of a gap (chain, sync, commit, record, repository); returned (the account '
    'was removed here, and is active again), allowed (the account allows the collection of its data again).';

-- As in 0018_privacy.sql, with the states of repositories: nothing of an excluded account is to be fetched, and all of
-- one that is not excluded any more.
CREATE OR REPLACE FUNCTION pipeline.follow_exclusion(account text, reason text) RETURNS boolean LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    now_excluded boolean;
BEGIN
    INSERT INTO pipeline.repo (did) VALUES (account) ON CONFLICT DO NOTHING;
    PERFORM FROM pipeline.repo WHERE did = account FOR UPDATE;
    -- A statement of its own, for it has to see what others committed before they let go of the lock.
    now_excluded := EXISTS (SELECT FROM pipeline.actor_setting WHERE did = account AND data_collection_forbidden)
        OR EXISTS (SELECT FROM pipeline.removal WHERE did = account AND reason = 'deleted');
    UPDATE pipeline.repo SET
        excluded = now_excluded,
        sync_state = CASE WHEN now_excluded THEN 'unknown' ELSE 'desynchronized' END,
        sync_reason = CASE WHEN NOT now_excluded THEN follow_exclusion.reason END,
        sync_at = now(),
        has_start = false,
        resync_at = NULL,
        -- What came while it was excluded is missing: no commit up to now is known to be applied.
        chain_from = CASE WHEN now_excluded THEN chain_from END,
        chain_since = CASE WHEN now_excluded THEN chain_since END,
        updated_at = now()
    WHERE did = account AND excluded <> now_excluded;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF now_excluded THEN
        -- Nothing of it is to be fetched.
        DELETE FROM pipeline.backfill_queue WHERE did = account;
        DELETE FROM pipeline.gap WHERE did = account AND resolved_at IS NULL;
        -- Waits for a resolution that is being saved. Where the hosting status is wanted the account stays queued: its
        -- PDS is to say whether it was deleted.
        UPDATE pipeline.identity SET
            queue = CASE WHEN status_wanted THEN queue END,
            wanted_at = CASE WHEN status_wanted THEN wanted_at END,
            next_check_at = NULL
        WHERE did = account;
    ELSE
        INSERT INTO pipeline.gap AS g (kind, did) VALUES ('repository', account)
        ON CONFLICT ON CONSTRAINT gap_once DO UPDATE SET resolved_at = NULL, detected_at = now();
        INSERT INTO pipeline.backfill_queue (did, reason, priority) VALUES (account, follow_exclusion.reason, 2)
        ON CONFLICT (did) DO UPDATE SET
            reason = excluded.reason, priority = excluded.priority, enqueued_at = now(), not_before = now(),
            claimed_until = NULL, attempts = 0, error = NULL, finished_at = NULL, parked_at = NULL;
        -- Of a purged account the PDS has not been asked since.
        INSERT INTO pipeline.identity AS i (did, queue, wanted_at, asked_at, status_wanted)
        SELECT account, 'event', now(), now(), NOT r.active FROM pipeline.repo r WHERE r.did = account
        ON CONFLICT (did) DO UPDATE SET
            queue = 'event', wanted_at = now(), asked_at = now(),
            status_wanted = i.status_wanted OR excluded.status_wanted;
        INSERT INTO bsky.actor (did, "indexedAt", "upstreamStatus")
        SELECT did, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
            pipeline.upstream_status(active OR status_doubtful, status)
        FROM pipeline.repo
        WHERE did = account AND rev IS NOT NULL
        ON CONFLICT (did) DO NOTHING;
    END IF;
    RETURN now_excluded;
END
$$;
