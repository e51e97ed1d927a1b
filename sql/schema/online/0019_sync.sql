-- A column for 0019_sync.sql, which the migration runs after this file.
--
-- Guarantees: every statement may be repeated; none rewrites a table, or keeps others from reading and writing it for
-- longer than a change of the catalog takes.

-- :sync_state
-- Whether a repository is complete.
ALTER TABLE pipeline.repo ADD COLUMN IF NOT EXISTS sync_state text NOT NULL DEFAULT 'unknown';

-- :sync_state_check
-- Holds for new rows from here on.
ALTER TABLE pipeline.repo
    DROP CONSTRAINT IF EXISTS repo_sync_state_check,
    ADD CONSTRAINT repo_sync_state_check
        CHECK (sync_state IN ('unknown', 'synchronized', 'desynchronized', 'resyncing', 'error')) NOT VALID;

-- :sync_state_checked
-- Looks at the rows that were there before.
ALTER TABLE pipeline.repo VALIDATE CONSTRAINT repo_sync_state_check;
