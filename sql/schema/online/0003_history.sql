-- An index for 0003_history.sql, which the migration runs after this file.
--
-- Guarantees: every statement may be repeated; none rewrites a table, or keeps others from reading and writing it for
-- longer than a change of the catalog takes.

-- :reply_root
-- All replies of a thread, for gates that arrive late.
CREATE INDEX CONCURRENTLY IF NOT EXISTS post_reply_root_idx ON bsky.post ("replyRoot") WHERE "replyRoot" IS NOT NULL;
