-- A column and indexes for 0022_exports.sql, which the migration runs after this file.
--
-- Guarantees: every statement may be repeated; none rewrites a table, or keeps others from reading and writing it for
-- longer than a change of the catalog takes.

-- :not_before
-- When what is missing is fetched next. The default of the rows that are there is stored once, in the catalog.
ALTER TABLE pipeline.pending ADD COLUMN IF NOT EXISTS not_before timestamptz DEFAULT now();

-- :pending_account
-- What an account has had fetched of late.
CREATE INDEX CONCURRENTLY IF NOT EXISTS pending_account_idx ON pipeline.pending
    (split_part(uri, '/', 3), expires_at);

-- :pending_not_before
-- What is fetched next.
CREATE INDEX CONCURRENTLY IF NOT EXISTS pending_not_before_idx ON pipeline.pending (not_before)
    WHERE not_before IS NOT NULL;
