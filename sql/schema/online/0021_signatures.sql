-- An index for 0021_signatures.sql, which the migration runs after this file.
--
-- Guarantees: every statement may be repeated; none rewrites a table, or keeps others from reading and writing it for
-- longer than a change of the catalog takes.

-- :unsettled
-- Dead letters of commits that did not fit the account's key, until a fresh key has decided about them.
CREATE INDEX CONCURRENTLY IF NOT EXISTS dead_letter_unsettled ON pipeline.dead_letter (id)
    WHERE kind = 'commit-signature' AND resolved_at IS NULL AND retried_at IS NULL;
