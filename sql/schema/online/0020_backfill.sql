-- Indexes for 0020_backfill.sql, which the migration runs after this file.
--
-- Guarantees: every statement may be repeated; none rewrites a table, or keeps others from reading and writing it for
-- longer than a change of the catalog takes.

-- :repo_unknown
-- Repositories that the stream brought and that nobody has queued yet, while everything is fetched.
CREATE INDEX CONCURRENTLY IF NOT EXISTS repo_unknown_idx ON pipeline.repo (did)
    WHERE sync_state = 'unknown' AND sync_reason IS NULL AND active AND NOT excluded;

-- :repo_incomplete
-- Repositories that are not complete: each is in the queue.
CREATE INDEX CONCURRENTLY IF NOT EXISTS repo_incomplete_idx ON pipeline.repo (did)
    WHERE sync_state IN ('desynchronized', 'resyncing', 'error');
