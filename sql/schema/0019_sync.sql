-- Whether each repository is complete, and why not.
--
-- Guarantees: a repository that is `synchronized` has everything up to its rev in the index. What contradicts that
-- (a gap of it) changes the state in the same transaction.

ALTER TABLE pipeline.repo
    ADD COLUMN sync_state text NOT NULL DEFAULT 'unknown'
        CHECK (sync_state IN ('unknown', 'synchronized', 'desynchronized', 'resyncing', 'error')),
    ADD COLUMN sync_reason text,
    ADD COLUMN sync_at timestamptz,
    ADD COLUMN is_partial boolean NOT NULL DEFAULT false,
    ADD COLUMN export_rev text COLLATE "C",
    ADD COLUMN chain_since text COLLATE "C";
COMMENT ON COLUMN pipeline.repo.sync_state IS
    'unknown: only what the stream brought is indexed; synchronized: everything up to rev is; desynchronized: something '
    'is missing, and the repository is queued; resyncing: it is being fetched; error: fetching was given up for now '
    '(sync_reason).';
COMMENT ON COLUMN pipeline.repo.sync_reason IS 'Why it is in this state, in words; null: nothing is to be said.';
COMMENT ON COLUMN pipeline.repo.sync_at IS 'Since when it has been in this state; null: from the beginning.';
COMMENT ON COLUMN pipeline.repo.is_partial IS 'Only its newest records were fetched (APPVIEW_BACKFILL_DAYS).';
COMMENT ON COLUMN pipeline.repo.export_rev IS
    'Rev of the newest export that was applied whole: commits up to it that arrive later change nothing; null: none was.';
COMMENT ON COLUMN pipeline.repo.chain_since IS
    'The rev that the commit at chain_from says it follows; null: it says nothing, or is the first.';
