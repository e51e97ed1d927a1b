-- An index for 0010_gaps.sql, which the migration runs after this file.
--
-- Guarantees: every statement may be repeated; none rewrites a table, or keeps others from reading and writing it for
-- longer than a change of the catalog takes.

-- :dead_letter_did
-- Open dead letters of a repository.
CREATE INDEX CONCURRENTLY IF NOT EXISTS dead_letter_did_idx ON pipeline.dead_letter (did) WHERE resolved_at IS NULL;
